//! The types of keys: how a value is read, how it is written back, and what would be right.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::units::{parse_duration_ms, parse_size, show_duration_ms, show_size};
use super::value::{Raw, quoted};
use super::{AskedMessages, Cidr, Classes, Secret};
use crate::limits::EVENT_BYTES_MAX;
use crate::protocol::class::Class;

/// The type of a key.
pub(super) trait Codec {
    /// What the struct of the section holds.
    type Value;
    /// Reads `raw` into `value`; false: it is not of this type. Then `value` is as before.
    fn read(&self, value: &mut Self::Value, raw: &Raw) -> bool;
    /// As TOML; `None`: not set.
    fn show(&self, value: &Self::Value) -> Option<String>;
    /// What would be right, to follow "expected".
    fn expects(&self) -> String;
}

/// Stores what was read.
fn put<T>(value: &mut T, read: Option<T>) -> bool {
    read.map(|read| *value = read).is_some()
}

/// `true` or `false`.
pub(super) struct Switch;

impl Codec for Switch {
    type Value = bool;
    fn read(&self, value: &mut bool, raw: &Raw) -> bool {
        put(value, raw.boolean())
    }
    fn show(&self, value: &bool) -> Option<String> {
        Some(value.to_string())
    }
    fn expects(&self) -> String {
        "true or false".to_owned()
    }
}

/// An integer in a range.
pub(super) struct Count<T> {
    pub(super) min: u64,
    pub(super) max: u64,
    pub(super) of: PhantomData<T>,
}

impl<T: Copy + Into<u64> + TryFrom<u64>> Codec for Count<T> {
    type Value = T;
    fn read(&self, value: &mut T, raw: &Raw) -> bool {
        let int = raw.integer().filter(|int| (self.min..=self.max).contains(int));
        put(value, int.and_then(|int| T::try_from(int).ok()))
    }
    fn show(&self, value: &T) -> Option<String> {
        Some((*value).into().to_string())
    }
    fn expects(&self) -> String {
        format!("an integer from {} to {}", self.min, self.max)
    }
}

/// A duration, in milliseconds.
pub(super) struct Duration {
    /// The least; with `off` 0 is right too.
    pub(super) min_ms: u64,
    pub(super) max_ms: u64,
    pub(super) off: bool,
}

impl Codec for Duration {
    type Value = u64;
    fn read(&self, value: &mut u64, raw: &Raw) -> bool {
        let ms = raw.quantity().and_then(|text| parse_duration_ms(&text));
        put(value, ms.filter(|ms| (self.off && *ms == 0) || (self.min_ms..=self.max_ms).contains(ms)))
    }
    fn show(&self, value: &u64) -> Option<String> {
        Some(quoted(&show_duration_ms(*value)))
    }
    fn expects(&self) -> String {
        let (min, max) = (show_duration_ms(self.min_ms), show_duration_ms(self.max_ms));
        let off = if self.off { ", or 0 for off" } else { "" };
        format!("a duration with its unit, such as \"500ms\", \"30s\", \"5m\" or \"1h\", from {min} to {max}{off}")
    }
}

/// A size, in bytes.
pub(super) struct Size<T> {
    /// The least; with `off` 0 is right too.
    pub(super) min: u64,
    pub(super) max: u64,
    pub(super) off: bool,
    pub(super) of: PhantomData<T>,
}

impl<T: Copy + Into<u64> + TryFrom<u64>> Codec for Size<T> {
    type Value = T;
    fn read(&self, value: &mut T, raw: &Raw) -> bool {
        let size = raw.quantity().and_then(|text| parse_size(&text));
        let size = size.filter(|size| (self.off && *size == 0) || (self.min..=self.max).contains(size));
        put(value, size.and_then(|size| T::try_from(size).ok()))
    }
    fn show(&self, value: &T) -> Option<String> {
        let text = show_size((*value).into());
        Some(if text.bytes().all(|b| b.is_ascii_digit()) { text } else { quoted(&text) })
    }
    fn expects(&self) -> String {
        let (min, max) = (show_size(self.min), show_size(self.max));
        let off = if self.off { ", or 0 for off" } else { "" };
        format!("a size such as 65536, \"64KiB\", \"16KB\" or \"1MiB\", from {min} to {max}{off}")
    }
}

/// One of some names.
pub(super) struct Choice<T: 'static>(pub(super) &'static [(&'static str, T)]);

impl<T: Copy + PartialEq> Codec for Choice<T> {
    type Value = T;
    fn read(&self, value: &mut T, raw: &Raw) -> bool {
        let name = raw.text().unwrap_or_default();
        put(value, self.0.iter().find(|(known, _)| *known == name).map(|(_, choice)| *choice))
    }
    fn show(&self, value: &T) -> Option<String> {
        self.0.iter().find(|(_, choice)| choice == value).map(|(name, _)| quoted(name))
    }
    fn expects(&self) -> String {
        let names: Vec<String> = self.0.iter().map(|(name, _)| quoted(name)).collect();
        match names.as_slice() {
            [only] => only.clone(),
            [rest @ .., last] => format!("{} or {last}", rest.join(", ")),
            [] => String::new(),
        }
    }
}

/// A string that `right` accepts.
pub(super) struct Text {
    pub(super) right: fn(&str) -> bool,
    pub(super) expects: &'static str,
}

impl Codec for Text {
    type Value = String;
    fn read(&self, value: &mut String, raw: &Raw) -> bool {
        put(value, raw.text().filter(|text| (self.right)(text)))
    }
    fn show(&self, value: &String) -> Option<String> {
        Some(quoted(value))
    }
    fn expects(&self) -> String {
        self.expects.to_owned()
    }
}

/// A string that is never shown.
pub(super) struct Hidden(pub(super) Text);

impl Codec for Hidden {
    type Value = Secret;
    fn read(&self, value: &mut Secret, raw: &Raw) -> bool {
        self.0.read(&mut value.0, raw)
    }
    fn show(&self, value: &Secret) -> Option<String> {
        self.0.show(&value.0)
    }
    fn expects(&self) -> String {
        self.0.expects()
    }
}

/// The path of a file.
pub(super) struct File;

impl Codec for File {
    type Value = PathBuf;
    fn read(&self, value: &mut PathBuf, raw: &Raw) -> bool {
        put(value, raw.text().filter(|text| !text.is_empty()).map(PathBuf::from))
    }
    fn show(&self, value: &PathBuf) -> Option<String> {
        Some(quoted(&value.to_string_lossy()))
    }
    fn expects(&self) -> String {
        "the path of a file".to_owned()
    }
}

/// An IP address and a port.
pub(super) struct Socket;

impl Codec for Socket {
    type Value = SocketAddr;
    fn read(&self, value: &mut SocketAddr, raw: &Raw) -> bool {
        put(value, raw.text().and_then(|text| text.trim().parse().ok()))
    }
    fn show(&self, value: &SocketAddr) -> Option<String> {
        Some(quoted(&value.to_string()))
    }
    fn expects(&self) -> String {
        "an IP address and a port, such as \"127.0.0.1:8080\", \"0.0.0.0:8080\" or \"[::]:8080\"".to_owned()
    }
}

/// A network.
pub(super) struct Network;

impl Codec for Network {
    type Value = Cidr;
    fn read(&self, value: &mut Cidr, raw: &Raw) -> bool {
        put(value, raw.text().and_then(|text| text.parse().ok()))
    }
    fn show(&self, value: &Cidr) -> Option<String> {
        Some(quoted(&value.to_string()))
    }
    fn expects(&self) -> String {
        "a network such as \"10.0.0.0/8\", \"fd00::/8\", or a single address".to_owned()
    }
}

/// Messages that a service is asked about.
pub(super) struct Asked;

impl Codec for Asked {
    type Value = AskedMessages;
    fn read(&self, value: &mut AskedMessages, raw: &Raw) -> bool {
        put(value, raw.text().and_then(|text| text.parse().ok()))
    }
    fn show(&self, value: &AskedMessages) -> Option<String> {
        Some(quoted(&value.to_string()))
    }
    fn expects(&self) -> String {
        let right = "\"send_message\", \"message\", \"publish\" or \"broadcast\", one of the first three with a name as in \"message:lobby\" or \
                     \"publish:orders.*\", or \"event:order_*\"";
        right.to_owned()
    }
}

/// A list; `start` is what an item is before it is read.
pub(super) struct List<C: Codec>(pub(super) C, pub(super) fn() -> C::Value);

impl<C: Codec> Codec for List<C> {
    type Value = Vec<C::Value>;
    fn read(&self, value: &mut Vec<C::Value>, raw: &Raw) -> bool {
        let item = |raw: &Raw| {
            let mut item = (self.1)();
            self.0.read(&mut item, raw).then_some(item)
        };
        put(value, raw.list().and_then(|items| items.iter().map(item).collect()))
    }
    fn show(&self, value: &Vec<C::Value>) -> Option<String> {
        let items: Option<Vec<String>> = value.iter().map(|item| self.0.show(item)).collect();
        items.map(|items| format!("[{}]", items.join(", ")))
    }
    fn expects(&self) -> String {
        format!("a list; each item: {}", self.0.expects())
    }
}

/// A value that may be absent: the empty string takes it away again. `start` as in [`List`].
pub(super) struct Maybe<C: Codec>(pub(super) C, pub(super) fn() -> C::Value);

impl<C: Codec> Codec for Maybe<C> {
    type Value = Option<C::Value>;
    fn read(&self, value: &mut Option<C::Value>, raw: &Raw) -> bool {
        if raw.is_empty_text() {
            *value = None;
            return true;
        }
        let mut read = (self.1)();
        let right = self.0.read(&mut read, raw);
        right && put(value, Some(Some(read)))
    }
    fn show(&self, value: &Option<C::Value>) -> Option<String> {
        value.as_ref().and_then(|value| self.0.show(value))
    }
    fn expects(&self) -> String {
        self.0.expects()
    }
}

/// The names of classes.
pub(super) const CLASSES: Choice<Class> = Choice(&[
    ("urgent", Class::Urgent),
    ("normal", Class::Normal),
    ("latest", Class::Latest),
    ("droppable", Class::Droppable),
]);

/// The table from event names to classes. It is read entry by entry, onto what was there.
pub(super) struct ClassTable;

impl Codec for ClassTable {
    type Value = Classes;
    fn read(&self, value: &mut Classes, raw: &Raw) -> bool {
        let Raw::Entry(event, raw) = raw else { return false };
        let mut class = Class::Normal;
        let right = !event.is_empty() && event.len() <= EVENT_BYTES_MAX && CLASSES.read(&mut class, raw);
        if right {
            value.0.insert(event.clone(), class);
        }
        right
    }
    fn show(&self, value: &Classes) -> Option<String> {
        let sorted: BTreeMap<_, _> = value.0.iter().collect();
        let lines = sorted
            .into_iter()
            .filter_map(|(event, class)| Some(format!("{} = {}", bare_key(event), CLASSES.show(class)?)));
        Some(lines.collect::<Vec<_>>().join("\n"))
    }
    fn expects(&self) -> String {
        format!("an event name of 1 to {EVENT_BYTES_MAX} bytes = {}", CLASSES.expects())
    }
}

/// A TOML key, in quotes where it needs them.
fn bare_key(key: &str) -> String {
    let bare = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if bare { key.to_owned() } else { quoted(key) }
}
