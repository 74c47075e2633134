//! What the log says of the bus: of the node, once, and not of each of its shards and attempts.

use std::sync::Mutex;

use crate::cluster::link::State;

/// The links of all shards, and what was said of them. Every shard tells what has changed, which is seldom.
#[derive(Debug)]
pub(super) struct Outage(Mutex<Links>);

#[derive(Debug)]
struct Links {
    /// By shard.
    up: Vec<bool>,
    said: Option<Said>,
    /// What was the matter last, while that was not said.
    why: Option<String>,
    /// What Redis has refused since it was up, by kinds.
    refused: Vec<&'static str>,
}

/// What was said last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Up,
    Down,
}

/// What is to be said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Say {
    /// Every shard has its link.
    Up,
    /// The first shard has lost its link, or cannot make it; and why, where that is known.
    Down(Option<String>),
}

impl Outage {
    /// Nobody has a link yet.
    pub(super) fn new(shards: u16) -> Self {
        let up = vec![false; usize::from(shards)];
        Outage(Mutex::new(Links { up, said: None, why: None, refused: Vec::new() }))
    }

    /// The link of a shard has changed.
    pub(super) fn changed(&self, shard: usize, state: State) -> Option<Say> {
        self.with(|links| {
            let up = links.up.get_mut(shard)?;
            match state {
                State::Down => {
                    *up = false;
                    links.goes_down()
                }
                State::Resync => None,
                State::Up => {
                    *up = true;
                    links.goes_up()
                }
            }
        })
    }

    /// A connection is of no use any more, or could not be made.
    pub(super) fn failed(&self, why: impl FnOnce() -> String) -> Option<Say> {
        self.with(|links| {
            links.why.get_or_insert_with(why);
            // Who was never up does not go down.
            if links.said.is_none() { links.goes_down() } else { None }
        })
    }

    /// Whether it is to be said that Redis refuses something of this kind: once, until it is up again.
    pub(super) fn is_news(&self, kind: &'static str) -> bool {
        self.with(|links| {
            let news = !links.refused.contains(&kind);
            if news {
                links.refused.push(kind);
            }
            Some(news)
        })
        .unwrap_or(true)
    }

    /// Whether it was said that the bus is down, and not since that it is up.
    pub(super) fn is_on(&self) -> bool {
        self.with(|links| Some(links.said == Some(Said::Down))).unwrap_or(false)
    }

    fn with<T>(&self, f: impl FnOnce(&mut Links) -> Option<T>) -> Option<T> {
        self.0.lock().ok().and_then(|mut links| f(&mut links))
    }
}

impl Links {
    fn goes_down(&mut self) -> Option<Say> {
        if self.said == Some(Said::Down) {
            return None;
        }
        self.said = Some(Said::Down);
        Some(Say::Down(self.why.take()))
    }

    fn goes_up(&mut self) -> Option<Say> {
        if self.up.contains(&false) {
            return None;
        }
        self.why = None;
        self.refused.clear();
        let news = self.said != Some(Said::Up);
        self.said = Some(Said::Up);
        news.then_some(Say::Up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn down(why: &str) -> Option<Say> {
        Some(Say::Down(Some(why.to_owned())))
    }

    #[test]
    fn an_outage_is_told_once_and_so_is_its_end() {
        let outage = Outage::new(2);
        assert_eq!([0, 1, 0].map(|shard| outage.changed(shard, State::Up)), [None, Some(Say::Up), None]);
        for round in ["first", "second"] {
            assert_eq!(outage.failed(|| round.to_owned()), None, "the shard says what that means");
            assert_eq!(outage.failed(|| "later".to_owned()), None);
            assert_eq!(outage.changed(1, State::Down), down(round));
            assert_eq!(outage.changed(0, State::Down), None);
            assert!(outage.is_on());
            for _ in 0..3 {
                assert_eq!(outage.failed(|| "another attempt".to_owned()), None);
            }
            assert_eq!(outage.changed(0, State::Resync), None);
            assert_eq!(outage.changed(0, State::Up), None, "not all of it");
            assert_eq!(outage.changed(0, State::Down), None);
            assert_eq!([1, 0].map(|shard| outage.changed(shard, State::Up)), [None, Some(Say::Up)]);
            assert!(!outage.is_on());
        }
    }

    #[test]
    fn who_cannot_connect_at_the_start_says_so_once_and_why() {
        let outage = Outage::new(2);
        assert_eq!(outage.failed(|| "refused".to_owned()), down("refused"));
        assert_eq!(outage.failed(|| "refused".to_owned()), None);
        assert_eq!([0, 1].map(|shard| outage.changed(shard, State::Up)), [None, Some(Say::Up)]);
    }

    #[test]
    fn what_redis_refuses_is_news_once_an_outage() {
        let outage = Outage::new(1);
        assert_eq!(["denied", "full", "denied"].map(|kind| outage.is_news(kind)), [true, true, false]);
        outage.changed(0, State::Up);
        assert!(outage.is_news("full"), "it was well in between");
    }
}
