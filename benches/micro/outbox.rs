//! The queue of a connection: push, gather for the send, advance over what was sent.

use std::hint::black_box;

use bytes::Bytes;
use ringgate::protocol::class::Class;
use ringgate::shard::event::Gathered;
use ringgate::shard::outbox::{Item, OutboxLimits, Outboxes, Source};
use ringgate::ws::frame::{Opcode, server_frame};

use crate::harness::Bench;

const LIMITS: OutboxLimits = OutboxLimits { high: 1 << 20, low: 256 << 10, max: 4 << 20 };

pub(crate) fn outbox(bench: &Bench) {
    bench.group("outbox");
    let mut scratch = vec![0; 16 << 10];
    for (len, count) in [(256, 1), (256, 16), (16 << 10, 1)] {
        let mut boxes = Outboxes::new();
        let frame = server_frame(Opcode::Text, &vec![b'x'; len]);
        let name = format!("lease, push {count} of {len} B, gather, advance, release");
        bench.run("outbox", &name, count, (len * count as usize) as u64, || {
            let handle = boxes.lease();
            for _ in 0..count {
                let _ = black_box(boxes.get_mut(handle).push(Item::normal(frame.clone(), 1), &LIMITS));
            }
            flush(&mut boxes, handle, &mut scratch);
            boxes.release(handle);
        });
    }

    // What a message to a big room does: one frame into each of many outboxes, then one flush of all.
    const MEMBERS: usize = 10_000;
    let mut boxes = Outboxes::new();
    let frame = server_frame(Opcode::Text, &[b'x'; 256]);
    let mut handles = Vec::with_capacity(MEMBERS);
    bench.run("outbox", "one frame of 256 B to 10,000 outboxes, flushed", MEMBERS as u64, 256 * MEMBERS as u64, || {
        for _ in 0..MEMBERS {
            let handle = boxes.lease();
            let _ = black_box(boxes.get_mut(handle).push(Item::normal(frame.clone(), 1), &LIMITS));
            handles.push(handle);
        }
        for handle in handles.drain(..) {
            flush(&mut boxes, handle, &mut scratch);
            boxes.release(handle);
        }
    });

    let mut boxes = Outboxes::new();
    let handle = boxes.lease();
    let big: Bytes = server_frame(Opcode::Text, &vec![b'x'; 1 << 20]);
    let _ = boxes.get_mut(handle).push(Item::normal(big, 1), &LIMITS);
    let small = server_frame(Opcode::Text, &[b'x'; 64]);
    let mut key = 0;
    bench.run("outbox", "push `latest`, throttled, 1,000 keys", 1, 0, || {
        key = (key + 1) % 1000;
        // Well mixed, as the interface asks for.
        let hash = (key + 1u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (key, source) = (Some(hash ^ hash >> 31), Source::Room(1));
        let item = Item { class: Class::Latest, key, source, ..Item::normal(small.clone(), 1) };
        boxes.get_mut(handle).push(item, &LIMITS)
    });
    bench.run("outbox", "push `droppable`, throttled", 1, 0, || {
        let item = Item { class: Class::Droppable, source: Source::Room(1), ..Item::normal(small.clone(), 1) };
        boxes.get_mut(handle).push(item, &LIMITS)
    });
}

fn flush(boxes: &mut Outboxes, handle: u32, scratch: &mut [u8]) {
    let outbox = boxes.get_mut(handle);
    loop {
        let sent = match outbox.gather(scratch) {
            Gathered::Empty => return,
            Gathered::Copied(len) => len,
            Gathered::Direct(bytes) => black_box(bytes).len(),
        };
        black_box(outbox.advance(sent));
    }
}
