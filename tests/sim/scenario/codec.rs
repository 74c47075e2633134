//! Batches and compression, as negotiated per connection.

use serde_json::{Value, json};

use crate::rig::Rig;

const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits";

fn numbers(heard: &[Value]) -> Vec<u64> {
    heard.iter().map(|message| message["content"]["n"].as_u64().expect("a number")).collect()
}

/// Fifty messages in one turn, to a plain client, one with batches, one with compression, and one with both.
fn fifty(takeover: bool, pad: usize) {
    let mut rig = Rig::new(|config| {
        config.deflate.context_takeover = takeover;
        config.deflate.min_size = 200;
    });
    let sender = rig.join_as("sender");
    let receivers = [
        rig.join_with("plain", "", &[]),
        rig.join_with("batched", "&batch=1", &[]),
        rig.join_with("squeezed", "", &[OFFER]),
        rig.join_with("both", "&batch=1", &[OFFER]),
    ];
    for receiver in receivers {
        rig.ask(receiver, json!({"type": "subscribe", "channel": "c"}));
    }
    for n in 0..50 {
        let content = json!({"n": n, "pad": "abc".repeat(pad)});
        rig.say(sender, json!({"type": "publish", "channel": "c", "content": content}));
    }
    rig.settle();
    for receiver in receivers {
        assert_eq!(numbers(&rig.said(receiver)), (0..50).collect::<Vec<_>>(), "receiver {receiver}");
    }
    let [plain, batched, squeezed, both] = receivers.map(|receiver| &rig.clients[receiver]);
    assert!(plain.batches == 0 && batched.batches > 0 && squeezed.batches == 0 && both.batches > 0);
    assert_eq!((plain.compressed, batched.compressed), (0, 0));
    assert_eq!(squeezed.compressed, if pad > 30 { 50 } else { 0 }, "below min_size nothing is compressed");
    assert!(both.compressed > 0, "a batch is long enough");
    rig.assert_nothing_is_left();
}

#[test]
fn batches_and_compression_without_context() {
    fifty(false, 100);
    fifty(false, 10);
}

#[test]
fn batches_and_compression_with_context() {
    fifty(true, 100);
    fifty(true, 10);
}

#[test]
fn contexts_go_along_to_the_home_shard() {
    // Whatever the home, the messages before and after the move inflate, in both directions.
    let mut moved = 0;
    for user in 0..12 {
        let mut rig = Rig::new(|config| {
            Rig::jwt(config);
            config.deflate.context_takeover = true;
            config.deflate.min_size = 0;
        });
        let client = rig.dial("/ws", &[OFFER]);
        rig.settle();
        let token = rig.token(&format!("user-{user}"), 0, None, &[]);
        for text in [
            json!({"type": "ping", "id": 1, "pad": "before ".repeat(50)}),
            json!({"type": "auth", "token": token, "id": 2}),
            json!({"type": "ping", "id": 3, "pad": "before ".repeat(50)}),
        ] {
            rig.clients[client].say_in(crate::codec::TEXT, text.to_string().as_bytes(), 1, true);
        }
        rig.settle();
        for id in 4..9 {
            let text = json!({"type": "ping", "id": id, "pad": "before ".repeat(50)});
            rig.clients[client].say_in(crate::codec::TEXT, text.to_string().as_bytes(), 2, true);
        }
        rig.settle();
        let ids: Vec<Value> = rig.said(client).iter().map(|m| m["id"].clone()).filter(|id| !id.is_null()).collect();
        assert_eq!(ids, (1..9).map(|id| json!(id)).collect::<Vec<_>>());
        assert!(rig.clients[client].compressed >= 5);
        moved += rig.world.hosts.iter().map(|host| host.shard.counters().adopted).sum::<u64>();
        rig.assert_nothing_is_left();
    }
    assert!(moved > 0, "one of them was not at home");
}
