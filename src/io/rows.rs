//! The connections of one shard as rows of a slab: what the driver knows of each, in 16 bytes.

use std::os::fd::OwnedFd;

use super::poller::{GENERATION_BITS, Token};

/// Where a row is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// In nobody's use.
    Free,
    /// The state machine knows it.
    Open,
    /// On its way to another shard; the state machine has forgotten it.
    Moving,
    /// To be closed, or closed and waiting for the last word of its poll.
    Closing,
    /// Closed, but the state machine could not be made to forget it: never used again.
    Quarantined,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Row {
    /// The socket; taken when it is closed or moved.
    pub(super) fd: Option<OwnedFd>,
    /// Bumped each time the row is freed.
    pub(super) generation: u32,
    pub(super) phase: Phase,
    /// A registration is with the poller and has not had its last word.
    pub(super) armed: bool,
    /// In the queue of those to be received from.
    pub(super) queued: bool,
    /// Not to be received from.
    pub(super) paused: bool,
    /// Readable since it was paused.
    pub(super) missed: bool,
    /// The peer has finished or failed: receive until the end shows.
    pub(super) hangup: bool,
    /// The end was told.
    pub(super) ended: bool,
    /// A send was refused in part: the next room to write is to be told.
    pub(super) blocked: bool,
    /// It holds one of `limits.connections`.
    pub(super) reserved: bool,
    /// To be [`Phase::Quarantined`] where others are freed.
    pub(super) quarantined: bool,
}

impl Row {
    /// The registration of this row's present use.
    pub(super) fn token(&self, slot: u32) -> Token {
        Token::row(slot, self.generation)
    }
}

/// The slab.
#[derive(Debug, Default)]
pub(super) struct Rows {
    rows: Vec<Row>,
    free: Vec<u32>,
    open: usize,
}

impl Rows {
    /// Puts a socket into a free row.
    pub(super) fn insert(&mut self, fd: OwnedFd, reserved: bool) -> u32 {
        self.open += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.rows.push(Row::unused());
            (self.rows.len() - 1) as u32
        });
        let row = &mut self.rows[slot as usize];
        debug_assert_eq!(row.phase, Phase::Free);
        *row = Row { fd: Some(fd), generation: row.generation, phase: Phase::Open, reserved, ..Row::unused() };
        slot
    }

    /// The row, whatever its phase.
    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Row> {
        self.rows.get_mut(slot as usize)
    }

    /// The row and its socket, while the state machine knows it.
    pub(super) fn open(&mut self, slot: u32, generation: u32) -> Option<&mut Row> {
        let row = self.rows.get_mut(slot as usize)?;
        (row.phase == Phase::Open && row.generation == generation).then_some(row)
    }

    /// The row that a token means, whatever its phase, unless it was reused.
    pub(super) fn by_token(&mut self, slot: u32, low_generation: u32) -> Option<&mut Row> {
        let row = self.rows.get_mut(slot as usize)?;
        let same = row.generation & ((1 << GENERATION_BITS) - 1) == low_generation;
        (same && !matches!(row.phase, Phase::Free | Phase::Quarantined)).then_some(row)
    }

    /// Frees the row if nothing refers to it any more: its socket is gone and its poll has had its last word.
    pub(super) fn free_if_done(&mut self, slot: u32) {
        let Some(row) = self.rows.get_mut(slot as usize) else { return };
        let done = matches!(row.phase, Phase::Moving | Phase::Closing) && row.fd.is_none() && !row.armed;
        if !done {
            return;
        }
        self.open -= 1;
        if row.quarantined {
            row.phase = Phase::Quarantined;
        } else {
            *row = Row { generation: row.generation.wrapping_add(1), ..Row::unused() };
            self.free.push(slot);
        }
    }

    /// Rows in use, closing ones included.
    pub(super) fn in_use(&self) -> usize {
        self.open
    }

    /// The rows that are open, for the end of the shard.
    pub(super) fn open_slots(&self) -> impl Iterator<Item = u32> + '_ {
        self.rows.iter().enumerate().filter(|(_, row)| row.phase == Phase::Open).map(|(slot, _)| slot as u32)
    }
}

impl Row {
    fn unused() -> Self {
        Row {
            fd: None,
            generation: 0,
            phase: Phase::Free,
            armed: false,
            queued: false,
            paused: false,
            missed: false,
            hangup: false,
            ended: false,
            blocked: false,
            reserved: false,
            quarantined: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_small_and_free_only_when_socket_and_poll_are_done() {
        assert!(size_of::<Row>() <= 20, "{}", size_of::<Row>());
        let fd = || rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        let mut rows = Rows::default();
        let slot = rows.insert(fd(), true);
        rows.free_if_done(slot);
        assert!(rows.open(slot, 0).is_some(), "an open row is never freed");
        let row = rows.get_mut(slot).unwrap();
        row.phase = Phase::Closing;
        row.armed = true;
        row.fd = None;
        rows.free_if_done(slot);
        assert_eq!(rows.in_use(), 1);
        rows.get_mut(slot).unwrap().armed = false;
        rows.free_if_done(slot);
        assert_eq!(rows.in_use(), 0);
        assert_eq!(rows.insert(fd(), false), slot);
        assert!(rows.open(slot, 0).is_none(), "a stale handle finds nothing");
        assert!(rows.open(slot, 1).is_some() && rows.by_token(slot, 0).is_none());
    }

    #[test]
    fn a_quarantined_row_is_never_used_again() {
        let fd = || rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        let mut rows = Rows::default();
        let slot = rows.insert(fd(), true);
        let row = rows.get_mut(slot).unwrap();
        (row.phase, row.fd, row.quarantined) = (Phase::Closing, None, true);
        rows.free_if_done(slot);
        rows.free_if_done(slot);
        assert_eq!(rows.in_use(), 0);
        assert!(rows.open(slot, 0).is_none() && rows.by_token(slot, 0).is_none());
        assert_ne!(rows.insert(fd(), true), slot);
    }
}
