//! A service that uses the server API: what it asks for at random, and what must come of each command.
//!
//! Its commands go to the first shard, as those of the admin listener do. The rooms that it puts users into are its own, so that what it
//! asks for and what clients ask for do not race; and it moves only users all of whose connections are known to be sessions.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use ringgate::protocol::Tags as ParsedTags;
use ringgate::protocol::class::Class;
use ringgate::protocol::command::{Command, Destination, Outcome, Place as Where, Publish, Whom};
use ringgate::protocol::envelope::Topic;
use ringgate::protocol::hook::Verdict;
use ringgate::shard::event::Event;

use crate::actor::Actor;
use crate::board::{Board, Fate, Place, Publication, SERVICE, Tags, Target};
use crate::client::Phase;
use crate::ops::{self, USERS};
use crate::world::World;

const ROOMS: [&str; 2] = ["s0", "s1"];

/// A command that is not answered yet.
enum Pending {
    Publication(usize),
    /// Put a user in a room, or took them out; the actors that it is about.
    Member {
        user: String,
        room: String,
        enter: bool,
        actors: Vec<usize>,
    },
    Disconnect {
        user: String,
    },
    /// The users and connections that must be named.
    Presence(BTreeMap<String, u64>),
}

#[derive(Default)]
pub struct Service {
    pending: BTreeMap<u64, Pending>,
    next: u64,
    /// Who was taken out of a room, and may still hear what was sent before.
    taken_out: Vec<(usize, Place)>,
    /// Who was told to go.
    disconnected: BTreeSet<usize>,
    /// Published with an idempotency key: to be asked for again.
    again: Option<(usize, Publish)>,
}

impl Service {
    /// Users whose connections must stay as many as they are.
    pub fn is_busy_with(&self, name: &str) -> bool {
        self.pending.values().any(|pending| match pending {
            Pending::Member { user, .. } | Pending::Disconnect { user } => user == name,
            Pending::Publication(_) | Pending::Presence(_) => false,
        })
    }

    /// Asks for something, anything.
    pub fn act(&mut self, world: &mut World, actors: &mut [Actor], board: &mut Board, rng: &mut Rng) {
        let max = world.settings.config.session.max_subscriptions;
        match rng.u8(..100) {
            0..=49 => self.publish(world, board, rng),
            50..=59 => {
                if let Some((number, publish)) = self.again.take() {
                    self.give(world, Command::Publish(Box::new(publish)), Pending::Publication(number));
                }
            }
            // Else it would take places that clients count on.
            60..=89 if max >= 128 => self.member(world, actors, rng),
            90..=93 => self.disconnect(world, actors, rng),
            _ => {}
        }
    }

    fn give(&mut self, world: &mut World, command: Command, pending: Pending) {
        let ticket = self.next;
        self.next += 1;
        self.pending.insert(ticket, pending);
        world.tell(0, Event::Command { ticket, command });
    }

    fn publish(&mut self, world: &mut World, board: &mut Board, rng: &mut Rng) {
        let target = match rng.u8(..8) {
            0..=2 => Target::User(USERS[rng.usize(..USERS.len())].to_owned()),
            3..=4 => Target::Place(ops::place(rng)),
            5..=6 => Target::Place(Place::Room(ROOMS[rng.usize(..ROOMS.len())].to_owned())),
            _ => Target::All,
        };
        self.publish_to(target, world, board, rng, board.turn);
    }

    fn publish_to(&mut self, target: Target, world: &mut World, board: &mut Board, rng: &mut Rng, at: u64) {
        let to = match &target {
            Target::User(user) => Destination::Users(vec![user.as_str().into()]),
            Target::Place(Place::Room(name)) => Destination::Topic(Topic::Room, name.as_str().into()),
            Target::Place(Place::Channel(name)) => Destination::Topic(Topic::Channel, name.as_str().into()),
            Target::All => Destination::All,
        };
        let classes = [
            ("urgent", Class::Urgent),
            ("normal", Class::Normal),
            ("latest", Class::Latest),
            ("droppable", Class::Droppable),
        ];
        let (class, parsed_class) = classes[rng.usize(..classes.len())];
        let own_key = rng.bool().then(|| format!("key-{}", rng.u8(..3)));
        let tags = if rng.bool() { Tags::random(rng) } else { Tags::default() };
        let default_key = || "of a service about nothing".to_owned();
        let key = (class == "latest").then(|| own_key.as_ref().map_or_else(default_key, |key| format!("named {key}")));
        let publication = Publication {
            sender: SERVICE,
            from: None,
            target,
            class,
            key,
            event: None,
            tags,
            pad: rng.usize(0..300),
            at,
            fate: Fate::Unknown,
            status: None,
            message_id: None,
            reported: None,
        };
        let number = board.publications.len();
        let tags = publication.tags.json().map(|json| {
            let raw = json.to_string();
            (ParsedTags::parse(&raw).expect("good tags"), raw.into())
        });
        let again = rng.u8(..4) == 0;
        let publish = Publish {
            to,
            content: publication.content(number).to_string().into(),
            from: None,
            event: None,
            class: Some(parsed_class),
            key: own_key.map(Into::into),
            tags,
            idempotency_key: again.then(|| format!("idem-{number}").into()),
        };
        board.publications.push(publication);
        if again {
            self.again = Some((number, publish.clone()));
        }
        self.give(world, Command::Publish(Box::new(publish)), Pending::Publication(number));
    }

    /// The actors of a user, where all of them are in a session.
    fn settled(&self, actors: &[Actor], user: &str) -> Option<Vec<usize>> {
        let of_user = |at: &usize| actors[*at].user == user && actors[*at].client.phase != Phase::Gone;
        let found: Vec<usize> = (0..actors.len()).filter(of_user).collect();
        let all = found.iter().all(|at| actors[*at].is_in_session()) && !self.is_busy_with(user);
        (all && !found.is_empty()).then_some(found)
    }

    fn member(&mut self, world: &mut World, actors: &mut [Actor], rng: &mut Rng) {
        let user = USERS[rng.usize(..USERS.len())];
        let Some(found) = self.settled(actors, user) else { return };
        let (room, enter) = (ROOMS[rng.usize(..ROOMS.len())].to_owned(), rng.u8(..3) > 0);
        let place = Place::Room(room.clone());
        for at in &found {
            let actor = &mut actors[*at];
            if enter {
                actor.enters(place.clone(), None);
            }
            let stay = actor.stays.entry(place.clone()).or_default();
            stay.unanswered += 1;
            stay.gone_since = None;
            if !enter {
                stay.asked_in = false;
                stay.since = None;
            }
        }
        let command = Command::Member { user: user.into(), room: room.as_str().into(), enter };
        self.give(world, command, Pending::Member { user: user.to_owned(), room, enter, actors: found });
    }

    fn disconnect(&mut self, world: &mut World, actors: &mut [Actor], rng: &mut Rng) {
        let user = USERS[rng.usize(..USERS.len())];
        let Some(mut found) = self.settled(actors, user) else { return };
        let one = rng.bool().then(|| found[rng.usize(..found.len())]);
        let whom = match one {
            Some(at) => {
                found = vec![at];
                let id = actors[at].connection.as_deref().expect("it has a session");
                Whom::Connection(id.parse().expect("an id"))
            }
            None => Whom::User(user.into()),
        };
        for at in &found {
            let actor = &mut actors[*at];
            actor.left = true;
            actor.excuses.insert(4003);
            self.disconnected.insert(*at);
        }
        let command = Command::Disconnect { whom, code: 4003, reason: "go".into() };
        self.give(world, command, Pending::Disconnect { user: user.to_owned() });
    }

    /// Asks who is in a place, or how many connections a user has, while nobody moves.
    pub fn presence(&mut self, world: &mut World, place: &Place, exact: BTreeMap<String, u64>) {
        let place = match place {
            Place::Room(name) => Where::Topic(Topic::Room, name.as_str().into()),
            Place::Channel(name) => Where::Topic(Topic::Channel, name.as_str().into()),
        };
        self.give(world, Command::Presence(place), Pending::Presence(exact));
    }

    /// Answers what it is asked about messages, all of it or some: in any order, and always that they may pass.
    pub fn decide(&mut self, world: &mut World, all: bool, rng: &mut Rng) -> bool {
        let mut questions = std::mem::take(&mut world.hosts[0].questions);
        let some = !questions.is_empty();
        rng.shuffle(&mut questions);
        for (conn, number, question) in questions {
            if all || rng.u8(..3) == 0 {
                let verdict = Box::new(Verdict::Pass(None));
                world.tell(0, Event::Verdict { conn, number, verdict });
            } else {
                world.hosts[0].questions.push((conn, number, question));
            }
        }
        some
    }

    /// Takes the answers that have come. Says whether there were any.
    pub fn hear(&mut self, world: &mut World, actors: &mut [Actor], board: &mut Board, rng: &mut Rng) -> bool {
        let answers = std::mem::take(&mut world.hosts[0].answers);
        let some = !answers.is_empty();
        for (ticket, outcome) in answers {
            let pending = self.pending.remove(&ticket).expect("each command is answered once");
            let moved = match &pending {
                Pending::Member { room, .. } => Some(room.clone()),
                _ => None,
            };
            self.answered(pending, outcome, actors, board);
            if let Some(room) = moved {
                // Whoever has heard that somebody is in a room, or out of it, may count on it at once.
                self.publish_to(Target::Place(Place::Room(room)), world, board, rng, board.turn + 1);
            }
        }
        some
    }

    fn answered(&mut self, pending: Pending, outcome: Outcome, actors: &mut [Actor], board: &mut Board) {
        match (pending, outcome) {
            (Pending::Publication(number), Outcome::Published(published)) => {
                let publication = &mut board.publications[number];
                publication.fate = Fate::Accepted;
                publication.note_id(&published.id.to_string());
                let tally = published.tally;
                if let Target::User(_) = publication.target {
                    assert_eq!(tally.delivered + tally.offline + tally.dropped, 1, "one user: {tally:?}");
                    let of = [(tally.delivered, "delivered"), (tally.offline, "offline"), (tally.dropped, "dropped")];
                    publication.status = of.iter().find(|(count, _)| *count == 1).map(|(_, name)| (*name).to_owned());
                } else {
                    publication.reported = Some(tally.delivered + tally.dropped);
                }
            }
            (Pending::Member { user, room, enter, actors: about }, Outcome::Connections(count)) => {
                assert_count(count, actors, &user);
                let place = Place::Room(room);
                for at in about {
                    if enter {
                        actors[at].settle(&place, board.turn);
                    } else {
                        let stay = actors[at].stays.get_mut(&place).expect("it was in the room, or was said to be");
                        stay.gone_since = Some(board.turn);
                        self.taken_out.push((at, place.clone()));
                    }
                }
            }
            (Pending::Disconnect { user }, Outcome::Connections(count)) => assert_count(count, actors, &user),
            (Pending::Presence(exact), Outcome::Present(present)) => {
                let found: BTreeMap<String, u64> =
                    present.users.iter().map(|(user, count)| (user.to_string(), u64::from(*count))).collect();
                assert_eq!(found, exact);
                assert_eq!(present.census.users as usize, exact.len());
                assert_eq!(u64::from(present.census.connections), exact.values().sum::<u64>());
            }
            (_, outcome) => panic!("another command's answer: {outcome:?}"),
        }
    }

    /// At rest: everything is answered, and whoever was told to go has gone.
    pub fn check(&mut self, actors: &mut [Actor], turn: u64) {
        assert!(self.pending.is_empty(), "{} commands were not answered", self.pending.len());
        for (at, place) in std::mem::take(&mut self.taken_out) {
            actors[at].settle(&place, turn);
        }
        for at in std::mem::take(&mut self.disconnected) {
            assert_ne!(actors[at].client.phase, Phase::Open, "actor {at} was told to go");
        }
    }
}

/// Not more connections than the user ever had: the shard may not know yet that some have vanished.
fn assert_count(count: u32, actors: &[Actor], user: &str) {
    let most = actors.iter().filter(|actor| actor.user == user).count();
    assert!(count as usize <= most, "{count} of {most} connections of {user}");
}
