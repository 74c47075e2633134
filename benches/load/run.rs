//! The course of a run: connect, warm up, measure, drain; or, for a storm, connect and cut in turn.

use std::net::{SocketAddrV4, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use crate::control::{Command, Control};
use crate::options::{Mode, Options};
use crate::plan::Plan;
use crate::progress::Progress;
use crate::report::{Memory, Report, Round, Window};
use crate::server::{Kernel, Server, Usage};
use crate::stats::{Outcome, Tally};
use crate::sys::{self, Epoll, Socket};
use crate::worker;

/// How long deliveries may still come after the last message was sent.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Runs `plan` against the gateway.
pub(crate) fn run(options: &Options, plan: &Plan) -> Result<Report, String> {
    let client_share = if plan.mode == Mode::Idle { client_kernel_bytes() } else { None };
    let servers = vec![Server::new(options, plan.total())?];
    drive(options, plan, servers, Vec::new(), |course, report| match plan.mode {
        Mode::Storm => course.storm(report),
        _ => course.steady(report, client_share),
    })
}

/// Runs one course of `plan` against these servers, and judges it. `letters` are what the users' names begin with.
pub(crate) fn drive(
    options: &Options,
    plan: &Plan,
    servers: Vec<Server>,
    letters: Vec<u8>,
    run: impl FnOnce(&mut Course<'_>, &mut Report) -> Result<(), String>,
) -> Result<Report, String> {
    if let Some(core) = options.pin_client {
        sys::pin(core).map_err(|error| format!("core {core}: {error}"))?;
    }
    let control = Control::new(plan, letters);
    let mut report = Report::new(options, plan, &servers[0]);
    let mut outcome = Outcome::new();
    let targets: Vec<SocketAddrV4> = servers.iter().map(|server| server.target).collect();
    let result = thread::scope(|scope| {
        let (control, targets) = (&control, &targets[..]);
        let workers: Vec<_> =
            (0..plan.workers).map(|number| scope.spawn(move || one(plan, control, number, targets))).collect();
        let mut course = Course { plan, control, servers, progress: Progress::new(options.json) };
        let result = run(&mut course, &mut report);
        course.progress.clear();
        control.give(Command::Quit);
        for worker in workers {
            match worker.join() {
                Ok(Some(theirs)) => outcome.add(theirs),
                Ok(None) | Err(_) => report.failures.push("a worker of the generator could not go on".into()),
            }
        }
        result
    });
    if let Err(why) = result {
        report.failures.push(why);
    }
    report.complete(plan, outcome);
    Ok(report)
}

fn one(plan: &Plan, control: &Control, number: u32, targets: &[SocketAddrV4]) -> Option<Outcome> {
    worker::run(plan, control, number, targets)
        .inspect_err(|error| {
            eprintln!("worker {number}: {error}");
            control.fail();
        })
        .ok()
}

/// A run in its course: what the coordinator does.
pub(crate) struct Course<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) control: &'a Control,
    pub(crate) servers: Vec<Server>,
    progress: Progress,
}

impl Course<'_> {
    fn steady(&mut self, report: &mut Report, client_share: Option<u64>) -> Result<(), String> {
        let (empty, kernel_empty) = (self.usage(), Kernel::now());
        self.connect(report)?;
        thread::sleep(Duration::from_millis(if self.plan.mode == Mode::Idle { 1000 } else { 200 }));
        let (full, kernel_full) = (self.usage(), Kernel::now());
        let per = |after: u64, before: u64| after.saturating_sub(before) / u64::from(self.plan.total());
        let slab = per(kernel_full.slab, kernel_empty.slab);
        report.memory = Some(Memory {
            rss_empty: empty.rss,
            rss: full.rss,
            rss_per_connection: per(full.rss, empty.rss),
            kernel_both_ends: slab,
            kernel_per_connection: client_share.map(|client| slab.saturating_sub(client)),
            socket_buffers: per(kernel_full.socket_buffers, kernel_empty.socket_buffers),
        });

        let start = self.control.now() + self.plan.warmup.as_nanos() as u64;
        self.control.measure(start, start + self.plan.measure.as_nanos() as u64);
        self.control.give(Command::Run);
        self.pass("warm-up", self.plan.warmup)?;
        let before = self.moment();
        self.pass("measuring", self.plan.measure)?;
        let after = self.moment();
        report.window = Some(window(&before, &after));

        self.drain()?;
        if self.plan.slow_share > 0.0 {
            self.control.give(Command::Wake);
        }
        // A duplicate, or the close of somebody slow, comes after what was waited for.
        self.pass("draining", Duration::from_millis(if self.plan.slow_share > 0.0 { 3000 } else { 200 }))?;
        let usage = self.usage();
        (report.rss_end, report.rss_peak) = (usage.rss, usage.rss_peak);
        Ok(())
    }

    /// Ends the sending, and waits for what is still to come.
    pub(crate) fn drain(&mut self) -> Result<(), String> {
        self.control.give(Command::Drain);
        thread::sleep(Duration::from_millis(100));
        self.wait("draining", DRAIN_MAX, |tally| tally.outstanding() == 0).map(drop)
    }

    fn storm(&mut self, report: &mut Report) -> Result<(), String> {
        for round in 0..=self.plan.rounds {
            let cpu = self.usage().cpu_ns;
            let began = Instant::now();
            self.connect(report)?;
            let seconds = began.elapsed().as_secs_f64();
            let server_cpu_s = (self.usage().cpu_ns - cpu) as f64 / 1e9;
            self.pass("holding", self.plan.measure)?;
            let rss = self.usage().rss;
            self.control.give(Command::Cut);
            self.wait("cut", Duration::from_secs(10), |tally| tally.ready == 0)?;
            if round == self.plan.rounds {
                // Long enough for the server to have noticed everybody's end.
                self.pass("cut", Duration::from_secs(2))?;
            }
            let rss_after = self.usage().rss;
            report.rounds.push(Round { seconds, server_cpu_s, rss, rss_after });
        }
        report.rss_end = self.usage().rss;
        Ok(())
    }

    pub(crate) fn connect(&mut self, report: &mut Report) -> Result<(), String> {
        self.control.give(Command::Connect);
        let planned = if self.plan.connect_rate > 0.0 {
            f64::from(self.plan.total()) / self.plan.connect_rate
        } else {
            f64::from(self.plan.total()) / 1000.0
        };
        let limit = Duration::from_secs_f64(planned * 2.0 + 30.0);
        let total = u64::from(self.plan.total());
        let done = self.wait("connecting", limit, |tally| tally.ready + tally.gave_up >= total)?;
        let ready = self.control.tally().ready;
        if !done || ready < total {
            report.failures.push(format!("{ready} of {total} connections got through"));
        }
        if ready == 0 { Err("nobody got through".into()) } else { Ok(()) }
    }

    /// Lets time go by.
    pub(crate) fn pass(&mut self, what: &'static str, time: Duration) -> Result<(), String> {
        self.wait(what, time, |_| false).map(drop)
    }

    /// Waits for a state of the counters; whether it came within `limit`.
    fn wait(&mut self, what: &'static str, limit: Duration, done: impl Fn(&Tally) -> bool) -> Result<bool, String> {
        let began = Instant::now();
        loop {
            let tally = self.control.tally();
            if done(&tally) {
                return Ok(true);
            }
            let left = limit.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Ok(false);
            }
            if self.control.has_failed() {
                return Err("a worker of the generator failed".into());
            }
            if !self.servers.iter_mut().all(Server::is_alive) {
                return Err("the server ended".into());
            }
            self.progress.show(what, began.elapsed(), &tally, self.usage());
            thread::sleep(left.min(Duration::from_millis(20)));
        }
    }

    fn moment(&self) -> Moment {
        Moment { at: Instant::now(), tally: self.control.tally(), server: self.usage(), own: Usage::own() }
    }

    /// What all servers together have used until now.
    fn usage(&self) -> Usage {
        self.servers.iter().map(Server::usage).sum()
    }
}

/// What is read at both ends of the measured span.
struct Moment {
    at: Instant,
    tally: Tally,
    server: Usage,
    own: Usage,
}

fn window(before: &Moment, after: &Moment) -> Window {
    let seconds = (after.at - before.at).as_secs_f64();
    let server_cpu_s = after.server.cpu_ns.saturating_sub(before.server.cpu_ns) as f64 / 1e9;
    let delivered = after.tally.delivered - before.tally.delivered;
    let million = delivered as f64 / 1e6;
    Window {
        seconds,
        sent: after.tally.sent - before.tally.sent,
        delivered,
        delivered_per_second: delivered as f64 / seconds,
        server_cpu_s,
        server_cores: server_cpu_s / seconds,
        server_cpu_s_per_million: (delivered > 0 && server_cpu_s > 0.0).then(|| server_cpu_s / million),
        client_cores: after.own.cpu_ns.saturating_sub(before.own.cpu_ns) as f64 / 1e9 / seconds,
    }
}

/// Kernel memory of the generator's end of a connection, from pairs that it makes with itself: on loopback both ends
/// are on this machine, and only the other one is the server's.
fn client_kernel_bytes() -> Option<u64> {
    const PAIRS: u64 = 4000;
    let measured = thread::spawn(|| -> std::io::Result<u64> {
        sys::private_descriptors()?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let std::net::SocketAddr::V4(target) = listener.local_addr()? else { return Ok(0) };
        let epoll = Epoll::new()?;
        let (mut near, mut far) = (Vec::new(), Vec::new());
        let start = Kernel::now().slab;
        for _ in 0..PAIRS {
            near.push(Socket::connect([127, 0, 0, 1].into(), target, None)?);
            far.push(listener.accept()?);
        }
        let pairs = Kernel::now().slab;
        for (token, socket) in near.iter().enumerate() {
            epoll.add(socket, token)?;
        }
        let watched = Kernel::now().slab;
        near.into_iter().for_each(Socket::reset);
        let end = pairs.saturating_sub(start) / 2 + watched.saturating_sub(pairs);
        Ok(end / PAIRS)
    });
    let bytes = measured.join().ok()?.ok()?;
    // What was freed goes back to the system before the run takes its own first reading.
    thread::sleep(Duration::from_millis(500));
    Some(bytes)
}
