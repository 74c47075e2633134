//! Questions to services: each is one request of its own, over connections that are kept, as many at a time as may be. Those that find none
//! free wait for one, in order; and every question is answered once, in time: what is not, fails.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::client::Client;
use super::reply::Reply;
use super::sign;
use super::target::{Route, Target};
use crate::admin::server::message_bytes_max;
use crate::io::clock;
use crate::io::desk::{Asking, Desk};
use crate::limits::{QUESTIONS_BYTES_MAX, VERDICT_BYTES_MAX};
use crate::protocol::hook::{Hook, Verdict};
use crate::settings::Settings;
use crate::shard::histogram::Histogram;

/// How often failures are logged at the most; those between are counted.
const COMPLAINT_PERIOD: Duration = Duration::from_secs(1);

/// What came of questions of one kind.
#[derive(Debug, Default)]
pub(in crate::admin) struct Questions {
    results: [Cell<u64>; Answered::ALL.len()],
    /// Asked and not answered.
    under_way: Cell<usize>,
    /// Microseconds until the answer.
    pub(in crate::admin) took_us: RefCell<Histogram>,
}

impl Questions {
    /// How many ended how.
    pub(in crate::admin) fn results(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Answered::ALL.iter().zip(&self.results).map(|(answered, count)| (answered.name(), count.get()))
    }

    pub(in crate::admin) fn under_way(&self) -> usize {
        self.under_way.get()
    }

    fn count(&self, answered: Answered) {
        let count = &self.results[answered as usize];
        count.set(count.get() + 1);
    }
}

/// How a question ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answered {
    Allowed,
    Refused,
    Failed,
    TimedOut,
    Busy,
}

impl Answered {
    const ALL: [Answered; 5] =
        [Answered::Allowed, Answered::Refused, Answered::Failed, Answered::TimedOut, Answered::Busy];

    fn name(self) -> &'static str {
        match self {
            Answered::Allowed => "allowed",
            Answered::Refused => "refused",
            Answered::Failed => "failed",
            Answered::TimedOut => "timed_out",
            Answered::Busy => "busy",
        }
    }
}

/// Asks one service.
#[derive(Debug)]
pub(super) struct Asker {
    hook: Hook,
    settings: Arc<Settings>,
    route: Rc<Route>,
    epoll: bool,
    desk: Rc<Desk>,
    questions: Rc<Questions>,
    /// Connections that nobody uses, and how many there are in all.
    free: RefCell<Vec<Client>>,
    made: Cell<u32>,
    waiting: RefCell<VecDeque<Waiting>>,
    waiting_bytes: Cell<usize>,
    /// Numbers the requests.
    next: Cell<u64>,
    complaints: Complaints,
}

#[derive(Debug)]
struct Waiting {
    asking: Asking,
    asked: Instant,
}

impl Asker {
    pub(super) fn new(
        hook: Hook,
        target: Target,
        settings: &Arc<Settings>,
        epoll: bool,
        desk: &Rc<Desk>,
        questions: &Rc<Questions>,
    ) -> Rc<Self> {
        Rc::new(Asker {
            hook,
            settings: settings.clone(),
            route: Rc::new(Route::new(target)),
            epoll,
            desk: desk.clone(),
            questions: questions.clone(),
            free: RefCell::default(),
            made: Cell::new(0),
            waiting: RefCell::default(),
            waiting_bytes: Cell::new(0),
            next: Cell::new(0),
            complaints: Complaints::default(),
        })
    }

    /// Takes a question; the desk has its verdict in time.
    pub(super) fn take(self: &Rc<Self>, asking: Asking) {
        let hooks = &self.settings.config.hooks;
        let bytes = self.waiting_bytes.get() + asking.question.body.len();
        if self.questions.under_way() >= hooks.in_flight as usize || bytes > QUESTIONS_BYTES_MAX {
            self.questions.count(Answered::Busy);
            self.complaints.say(self.hook, "too much is asked at once (hooks.in_flight)");
            return self.desk.say(asking.conn, asking.number, Verdict::Failed);
        }
        self.waiting_bytes.set(bytes);
        self.questions.under_way.set(self.questions.under_way() + 1);
        let waiting = Waiting { asking, asked: Instant::now() };
        let free = self.free.borrow_mut().pop();
        let client = match free {
            Some(client) => client,
            None if self.made.get() < hooks.connections => {
                self.made.set(self.made.get() + 1);
                Client::new(self.route.clone(), self.epoll)
            }
            None => return self.waiting.borrow_mut().push_back(waiting),
        };
        monoio::spawn(self.clone().work(client, waiting));
    }

    /// Asks with one connection, until nothing waits any more.
    ///
    /// What waits was asked later than what is under way, and all have the same time: so it is looked at before its own is up.
    async fn work(self: Rc<Self>, mut client: Client, mut waiting: Waiting) {
        loop {
            let Waiting { asking: Asking { conn, number, question }, asked } = waiting;
            let bytes = question.body.len();
            let (answered, verdict) = self.ask(&mut client, question.body, asked).await;
            self.waiting_bytes.set(self.waiting_bytes.get() - bytes);
            self.questions.under_way.set(self.questions.under_way() - 1);
            self.questions.count(answered);
            self.questions.took_us.borrow_mut().record(asked.elapsed().as_micros() as u64);
            self.desk.say(conn, number, verdict);
            let next = self.waiting.borrow_mut().pop_front();
            match next {
                Some(next) => waiting = next,
                None => return self.free.borrow_mut().push(client),
            }
        }
    }

    async fn ask(&self, client: &mut Client, body: Box<[u8]>, asked: Instant) -> (Answered, Verdict) {
        let config = &self.settings.config;
        let deadline = asked + Duration::from_millis(config.hooks.answer_timeout_ms);
        if Instant::now() >= deadline {
            self.complaints.say(self.hook, "no connection was free in time (hooks.connections)");
            return (Answered::TimedOut, Verdict::Failed);
        }
        let body = Bytes::from(body);
        let mut headers = vec![("x-ringgate-delivery", self.name())];
        if let Some(secret) = &config.hooks.secret {
            headers.push(("x-ringgate-signature", sign::signature(&secret.0, clock::now().unix_s(), &body)));
        }
        // It may have been reloaded.
        let settings = self.desk.settings().unwrap_or_else(|| self.settings.clone());
        let content_bytes_max = message_bytes_max(&settings.config);
        let reply = client.post(&headers, body, content_bytes_max + VERDICT_BYTES_MAX, deadline).await;
        match reply.and_then(|reply| verdict(self.hook, reply, content_bytes_max)) {
            Ok(verdict @ (Verdict::TurnAway { .. } | Verdict::Refuse { .. })) => (Answered::Refused, verdict),
            Ok(verdict) => (Answered::Allowed, verdict),
            Err(error) => {
                self.complaints.say(self.hook, &error.to_string());
                let timed_out = error.kind() == io::ErrorKind::TimedOut;
                (if timed_out { Answered::TimedOut } else { Answered::Failed }, Verdict::Failed)
            }
        }
    }

    /// The name of a request, so that a service can tell one that comes again.
    fn name(&self) -> String {
        let number = self.next.get();
        self.next.set(number + 1);
        format!("{:08x}-{}-{number}", self.settings.instance, self.hook.name())
    }
}

/// What a service means by its answer.
fn verdict(hook: Hook, reply: Reply, content_bytes_max: usize) -> io::Result<Verdict> {
    match reply.status {
        200..=299 => {}
        401 | 403 => return Ok(Verdict::refusal(hook)),
        status => return Err(io::Error::other(format!("HTTP {status}"))),
    }
    let body = reply.body.ok_or_else(|| io::Error::other("the answer is too long"))?;
    let body = std::str::from_utf8(&body).map_err(|_| io::Error::other("the answer is not UTF-8"))?;
    Verdict::read(hook, body, content_bytes_max).map_err(io::Error::other)
}

/// Says what went wrong, but not a thousand times a second.
#[derive(Debug, Default)]
struct Complaints {
    last: Cell<Option<Instant>>,
    unsaid: Cell<u64>,
}

impl Complaints {
    fn say(&self, hook: Hook, error: &str) {
        let now = Instant::now();
        if self.last.get().is_some_and(|last| now.saturating_duration_since(last) < COMPLAINT_PERIOD) {
            return self.unsaid.set(self.unsaid.get() + 1);
        }
        self.last.set(Some(now));
        tracing::warn!(
            hook = hook.name(),
            error,
            unsaid = self.unsaid.take(),
            "a service was asked and has not answered"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_statuses_mean() {
        let of = |status, body: &str| {
            let reply = Reply { status, body: Some(body.into()), reusable: true };
            verdict(Hook::Message, reply, 100).ok()
        };
        assert_eq!(of(200, "{}"), Some(Verdict::Pass(None)));
        assert_eq!(of(204, ""), Some(Verdict::Pass(None)));
        for status in [401, 403] {
            assert_eq!(of(status, "<html>"), Some(Verdict::refusal(Hook::Message)));
        }
        for status in [301, 400, 404, 500, 503] {
            assert_eq!(of(status, "{}"), None, "{status}");
        }
        assert_eq!(of(200, "OK"), None);
        let long = Reply { status: 200, body: None, reusable: false };
        assert!(verdict(Hook::Connect, long, 100).is_err());
    }
}
