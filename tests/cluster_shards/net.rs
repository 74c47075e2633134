//! The modelled Redis, and the network between it and the nodes.

use super::redis::{Command, Connection, Connections, Line, Redis};

pub struct Net {
    pub redis: Redis,
    pub connections: Connections,
    pub now_ms: u64,
    /// Commands that Redis has carried out.
    pub commands: u64,
    /// Nothing is answered until then.
    pub hangs_until_ms: u64,
    /// No connection can be made until then.
    pub refuses_until_ms: u64,
    next: Line,
    /// Connections whose client is gone, and until when the server does not notice.
    half_open: Vec<(Line, u64)>,
}

impl Net {
    pub fn new(now_ms: u64) -> Self {
        Net {
            redis: Redis::default(),
            connections: Connections::new(),
            now_ms,
            commands: 0,
            hangs_until_ms: 0,
            refuses_until_ms: 0,
            next: 0,
            half_open: Vec::new(),
        }
    }

    /// A connection, if one can be made.
    pub fn connect(&mut self, writes: bool) -> Option<Line> {
        if self.now_ms < self.refuses_until_ms {
            return None;
        }
        self.next += 1;
        let mut connection = Connection::default();
        connection.up.push_back(Command::Greet { writes });
        self.connections.insert(self.next, connection);
        Some(self.next)
    }

    pub fn send(&mut self, line: Line, command: Command) {
        let connection = self.connections.get_mut(&line).expect("a connection lives while its client does");
        if !connection.cut {
            connection.up.push_back(command);
        }
    }

    /// Its client is gone. So many of the commands that it has sent still arrive, at any time until the server notices.
    pub fn abandon(&mut self, line: Line, arrives: usize, until_ms: u64) {
        if let Some(connection) = self.connections.get_mut(&line) {
            connection.up.truncate(arrives);
            self.half_open.push((line, until_ms));
        }
    }

    /// Whether a connection has ended, and everything that it had to say has arrived.
    pub fn is_over(&self, line: Line) -> bool {
        self.connections.get(&line).is_none_or(|connection| connection.cut && connection.down.is_empty())
    }

    /// Some connection there has been.
    pub fn any_line(&self, rng: &mut fastrand::Rng) -> Line {
        rng.u64(..self.next.max(1)) + 1
    }

    /// The server ends connections: some of the answers still arrive.
    pub fn cut(&mut self, rng: &mut fastrand::Rng, which: impl Fn(Line, &Connection) -> bool) {
        for (line, connection) in &mut self.connections {
            if !connection.cut && which(*line, connection) {
                connection.cut = true;
                connection.up.clear();
                connection.channels.clear();
                connection.tracks = false;
                connection.down.truncate(rng.usize(..=connection.down.len()));
            }
        }
    }

    /// Redis takes some of what has arrived, connection by connection in any order.
    pub fn serve(&mut self, rng: &mut fastrand::Rng) {
        for (line, _) in self.half_open.extract_if(.., |(_, until_ms)| *until_ms <= self.now_ms) {
            self.connections.remove(&line);
        }
        if self.now_ms < self.hangs_until_ms {
            return;
        }
        self.redis.expire(&mut self.connections, self.now_ms);
        let mut lines: Vec<Line> = self.connections.keys().copied().collect();
        rng.shuffle(&mut lines);
        for line in lines {
            for _ in 0..rng.usize(..40) {
                let Some(command) = self.connections.get_mut(&line).and_then(|c| c.up.pop_front()) else { break };
                self.commands += 1;
                self.redis.run(line, command, &mut self.connections, self.now_ms);
            }
        }
    }
}
