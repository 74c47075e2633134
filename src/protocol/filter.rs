//! The `filter` of a subscription: which publications of a channel are delivered, decided by their tags.
//!
//! | node | matches when |
//! |---|---|
//! | `{"op":"eq","key":K,"val":V}` | the tag is there and equals `V`; numbers by value, so `1` equals `1.0`; a string never equals a number |
//! | `{"op":"neq","key":K,"val":V}` | not `eq`: also where there is no such tag |
//! | `{"op":"in","key":K,"vals":[...]}` | the tag equals one of them |
//! | `{"op":"nin","key":K,"vals":[...]}` | not `in`: also where there is no such tag |
//! | `{"op":"gt"\|"gte"\|"lt"\|"lte","key":K,"val":V}` | the tag is of `V`'s kind and beyond it: numbers by value, strings by code point, `false` before `true` |
//! | `{"op":"exists","key":K}` | there is such a tag |
//! | `{"op":"prefix","key":K,"val":"..."}` | the tag is a string that begins so |
//! | `{"op":"within","key":K,"lat":..,"lon":..,"radius_m":..}` | the tag is `[lat,lon]`, at most so many metres away on a sphere |
//! | `{"op":"and"\|"or","nodes":[...]}`, `{"op":"not","nodes":[N]}` | all, any, none of the nodes do |
//!
//! Other members of a node are ignored.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::scan::{Elements, Kind, Members, Raw};
use super::tags::{Scalar, TagValue, Tags, read_f64};
use crate::limits::{FILTER_BYTES_MAX, FILTER_DEPTH_MAX, FILTER_NODES_MAX, FILTER_VALUES_MAX, NAME_BYTES_MAX};

/// The mean radius of the Earth, in metres (IUGG).
const EARTH_RADIUS_M: f64 = 6_371_008.8;

/// A filter that was checked: at most [`FILTER_NODES_MAX`] nodes, [`FILTER_DEPTH_MAX`] levels, and [`FILTER_VALUES_MAX`] `vals` per node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Filter(Node);

/// Why a `filter` could not be used: a sentence that names the node and its field, what it is, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FilterError(pub(super) Cow<'static, str>);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Node {
    And(Box<[Node]>),
    Or(Box<[Node]>),
    Not(Box<Node>),
    Equal {
        key: Box<str>,
        val: Scalar,
    },
    /// Sorted by [`Scalar::order`].
    In {
        key: Box<str>,
        vals: Box<[Scalar]>,
    },
    Compare {
        key: Box<str>,
        comparison: Comparison,
        val: Scalar,
    },
    Exists {
        key: Box<str>,
    },
    Prefix {
        key: Box<str>,
        val: Box<str>,
    },
    Within {
        key: Box<str>,
        center: [f64; 2],
        radius_m: f64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Comparison {
    Gt,
    Gte,
    Lt,
    Lte,
}

impl Filter {
    /// Reads a filter from its JSON text.
    ///
    /// # Errors
    ///
    /// A field that is missing or of the wrong kind, an unknown `op`, or a bound exceeded.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if text.len() > FILTER_BYTES_MAX {
            return Err(FilterError(
                format!("filter has {} bytes; expected at most {FILTER_BYTES_MAX}", text.len()).into(),
            ));
        }
        let raw = Raw::parse(text).map_err(|_| FilterError("filter is not JSON".into()))?;
        let mut nodes_left = FILTER_NODES_MAX;
        parse_node(raw, &Path::Root, 1, &mut nodes_left).map(Filter)
    }

    /// Memory held, in bytes, about: what counts against a budget.
    pub fn held_bytes(&self) -> usize {
        size_of::<Self>() + self.0.held_bytes()
    }

    /// Whether a publication with these tags is delivered. Tags that are absent are an empty map.
    pub fn matches(&self, tags: &Tags) -> bool {
        self.0.matches(tags)
    }
}

impl Node {
    /// What hangs on it, in bytes. Recursive like [`Node::matches`].
    fn held_bytes(&self) -> usize {
        let text = |scalar: &Scalar| if let Scalar::Text(text) = scalar { text.len() } else { 0 };
        match self {
            Node::And(nodes) | Node::Or(nodes) => nodes.iter().map(|node| size_of::<Node>() + node.held_bytes()).sum(),
            Node::Not(node) => size_of::<Node>() + node.held_bytes(),
            Node::Equal { key, val } | Node::Compare { key, val, .. } => key.len() + text(val),
            Node::In { key, vals } => key.len() + vals.iter().map(|val| size_of::<Scalar>() + text(val)).sum::<usize>(),
            Node::Exists { key } | Node::Within { key, .. } => key.len(),
            Node::Prefix { key, val } => key.len() + val.len(),
        }
    }

    /// Recursive: a filter has at most [`FILTER_DEPTH_MAX`] levels, and one more below for `neq` and `nin`.
    fn matches(&self, tags: &Tags) -> bool {
        let scalar = |key: &str| match tags.get(key) {
            Some(TagValue::Scalar(scalar)) => Some(scalar),
            Some(TagValue::Point(_)) | None => None,
        };
        match self {
            Node::And(nodes) => nodes.iter().all(|node| node.matches(tags)),
            Node::Or(nodes) => nodes.iter().any(|node| node.matches(tags)),
            Node::Not(node) => !node.matches(tags),
            Node::Equal { key, val } => scalar(key) == Some(val),
            Node::In { key, vals } => {
                scalar(key).is_some_and(|tag| vals.binary_search_by(|val| val.order(tag)).is_ok())
            }
            Node::Compare { key, comparison, val } => {
                scalar(key).and_then(|tag| tag.compare(val)).is_some_and(|order| comparison.holds(order))
            }
            Node::Exists { key } => tags.get(key).is_some(),
            Node::Prefix { key, val } => {
                matches!(scalar(key), Some(Scalar::Text(text)) if text.starts_with(&**val))
            }
            Node::Within { key, center, radius_m } => match tags.get(key) {
                Some(TagValue::Point(point)) if is_place(*point) => distance_m(*point, *center) <= *radius_m,
                Some(TagValue::Point(_) | TagValue::Scalar(_)) | None => false,
            },
        }
    }
}

impl Comparison {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Comparison::Gt => order.is_gt(),
            Comparison::Gte => order.is_ge(),
            Comparison::Lt => order.is_lt(),
            Comparison::Lte => order.is_le(),
        }
    }
}

/// Degrees of latitude and longitude that exist.
fn is_place([lat, lon]: [f64; 2]) -> bool {
    (-90.0..=90.0).contains(&lat) && (-180.0..=180.0).contains(&lon)
}

/// The great-circle distance of two places, by the haversine formula.
fn distance_m([lat_a, lon_a]: [f64; 2], [lat_b, lon_b]: [f64; 2]) -> f64 {
    let half_sine_squared = |a: f64, b: f64| ((b - a).to_radians() / 2.0).sin().powi(2);
    let haversine = half_sine_squared(lat_a, lat_b)
        + lat_a.to_radians().cos() * lat_b.to_radians().cos() * half_sine_squared(lon_a, lon_b);
    2.0 * EARTH_RADIUS_M * haversine.sqrt().min(1.0).asin()
}

/// Where in a filter something is, for its errors.
enum Path<'a> {
    Root,
    Nth(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => f.write_str("filter"),
            Path::Nth(parent, index) => write!(f, "{parent}.nodes[{index}]"),
        }
    }
}

/// The members of one node that mean something.
#[derive(Default)]
struct Fields<'a> {
    op: Option<Raw<'a>>,
    key: Option<Raw<'a>>,
    val: Option<Raw<'a>>,
    vals: Option<Raw<'a>>,
    nodes: Option<Raw<'a>>,
    lat: Option<Raw<'a>>,
    lon: Option<Raw<'a>>,
    radius_m: Option<Raw<'a>>,
}

impl<'a> Fields<'a> {
    fn read(raw: Raw<'a>) -> Option<Self> {
        let mut members = Members::new(raw.text())?;
        let mut fields = Fields::default();
        while let Ok(Some((name, value))) = members.next() {
            let slot = match name.string().as_deref() {
                Some("op") => &mut fields.op,
                Some("key") => &mut fields.key,
                Some("val") => &mut fields.val,
                Some("vals") => &mut fields.vals,
                Some("nodes") => &mut fields.nodes,
                Some("lat") => &mut fields.lat,
                Some("lon") => &mut fields.lon,
                Some("radius_m") => &mut fields.radius_m,
                _ => continue,
            };
            *slot = Some(value);
        }
        Some(fields)
    }
}

fn parse_node(raw: Raw<'_>, path: &Path<'_>, depth: usize, nodes_left: &mut usize) -> Result<Node, FilterError> {
    let Some(left) = nodes_left.checked_sub(1) else {
        return Err(FilterError(format!("filter has more than {FILTER_NODES_MAX} nodes").into()));
    };
    *nodes_left = left;
    if depth > FILTER_DEPTH_MAX {
        return Err(FilterError(format!("filter has more than {FILTER_DEPTH_MAX} levels").into()));
    }
    let fields = Fields::read(raw)
        .ok_or_else(|| FilterError(format!("{path} is {}; expected an object with an op", raw.kind().name()).into()))?;

    let key = || -> Result<Box<str>, FilterError> {
        let expected = "a string of 1 to 128 bytes";
        let key = fields.key.and_then(Raw::string).ok_or_else(|| wrong(path, "key", fields.key, expected))?;
        let fits = (1..=NAME_BYTES_MAX).contains(&key.len());
        if fits { Ok(key.into()) } else { Err(wrong(path, "key", fields.key, expected)) }
    };
    let val = || {
        let scalar = fields.val.and_then(Scalar::read);
        scalar.ok_or_else(|| wrong(path, "val", fields.val, "a string, a finite number or a boolean"))
    };
    let in_vals = || Ok(Node::In { key: key()?, vals: parse_vals(fields.vals, path)? });
    let equal = || Ok(Node::Equal { key: key()?, val: val()? });
    let compare = |comparison| Ok(Node::Compare { key: key()?, comparison, val: val()? });
    let mut nodes = || parse_nodes(fields.nodes, path, depth, nodes_left);

    match fields.op.and_then(Raw::string).as_deref() {
        Some("and") => Ok(Node::And(nodes()?.into())),
        Some("or") => Ok(Node::Or(nodes()?.into())),
        Some("not") => {
            let mut nodes = nodes()?;
            match (nodes.pop(), nodes.is_empty()) {
                (Some(node), true) => Ok(Node::Not(Box::new(node))),
                _ => Err(wrong(path, "nodes", fields.nodes, "an array of exactly one node for not")),
            }
        }
        Some("eq") => equal(),
        Some("neq") => Ok(Node::Not(Box::new(equal()?))),
        Some("in") => in_vals(),
        Some("nin") => Ok(Node::Not(Box::new(in_vals()?))),
        Some("gt") => compare(Comparison::Gt),
        Some("gte") => compare(Comparison::Gte),
        Some("lt") => compare(Comparison::Lt),
        Some("lte") => compare(Comparison::Lte),
        Some("exists") => Ok(Node::Exists { key: key()? }),
        Some("prefix") => match val()? {
            Scalar::Text(val) => Ok(Node::Prefix { key: key()?, val }),
            Scalar::Int(_) | Scalar::Float(_) | Scalar::Bool(_) => {
                Err(wrong(path, "val", fields.val, "a string for prefix"))
            }
        },
        Some("within") => parse_within(&fields, key()?, path),
        _ => Err(wrong(
            path,
            "op",
            fields.op,
            "eq, neq, in, nin, gt, gte, lt, lte, exists, prefix, within, and, or or not",
        )),
    }
}

fn parse_nodes(
    raw: Option<Raw<'_>>,
    path: &Path<'_>,
    depth: usize,
    nodes_left: &mut usize,
) -> Result<Vec<Node>, FilterError> {
    let mut nodes = Vec::new();
    if let Some(mut elements) = raw.and_then(|raw| Elements::new(raw.text())) {
        while let Ok(Some(element)) = elements.next() {
            nodes.push(parse_node(element, &Path::Nth(path, nodes.len()), depth + 1, nodes_left)?);
        }
    }
    if nodes.is_empty() { Err(wrong(path, "nodes", raw, "an array of at least one node")) } else { Ok(nodes) }
}

fn parse_vals(raw: Option<Raw<'_>>, path: &Path<'_>) -> Result<Box<[Scalar]>, FilterError> {
    let error = || wrong(path, "vals", raw, "an array of at most 128 strings, finite numbers and booleans");
    let mut elements = raw.and_then(|raw| Elements::new(raw.text())).ok_or_else(error)?;
    let mut vals = Vec::new();
    while let Ok(Some(element)) = elements.next() {
        if vals.len() == FILTER_VALUES_MAX {
            return Err(error());
        }
        vals.push(Scalar::read(element).ok_or_else(error)?);
    }
    vals.sort_unstable_by(Scalar::order);
    Ok(vals.into())
}

fn parse_within(fields: &Fields<'_>, key: Box<str>, path: &Path<'_>) -> Result<Node, FilterError> {
    let number = |name, raw: Option<Raw<'_>>, expected, range: std::ops::RangeInclusive<f64>| {
        let number = raw.and_then(read_f64).filter(|number| range.contains(number));
        number.ok_or_else(|| wrong(path, name, raw, expected))
    };
    let lat = number("lat", fields.lat, "a number from -90 to 90", -90.0..=90.0)?;
    let lon = number("lon", fields.lon, "a number from -180 to 180", -180.0..=180.0)?;
    let radius_m = number("radius_m", fields.radius_m, "metres, a number from 0", 0.0..=f64::MAX)?;
    Ok(Node::Within { key, center: [lat, lon], radius_m })
}

/// "filter.nodes[1].val is null; expected ...".
fn wrong(path: &Path<'_>, field: &str, found: Option<Raw<'_>>, expected: &str) -> FilterError {
    let found = match found.map(|raw| (raw.kind(), raw.text())) {
        None => "missing".into(),
        // Short ones are shown, so that a mistyped op or a number out of range explains itself.
        Some((Kind::String | Kind::Number, text)) if text.len() <= 32 => Cow::Borrowed(text),
        Some((kind, _)) => Cow::Borrowed(kind.name()),
    };
    FilterError(format!("{path}.{field} is {found}; expected {expected}").into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn matches(filter: &str, tags: &str) -> bool {
        Filter::parse(filter).unwrap().matches(&Tags::parse(tags).unwrap())
    }

    #[test]
    fn every_op_decides_as_documented() {
        const TAGS: &str = r#"{"s":"gold","n":5,"f":2.5,"b":true,"at":[52.52,13.405],"odd":[500,0]}"#;
        let table = [
            (r#"{"op":"eq","key":"s","val":"gold"}"#, true),
            (r#"{"op":"eq","key":"s","val":"Gold"}"#, false),
            (r#"{"op":"eq","key":"n","val":5.0}"#, true),
            (r#"{"op":"eq","key":"n","val":"5"}"#, false),
            (r#"{"op":"eq","key":"b","val":true}"#, true),
            (r#"{"op":"eq","key":"none","val":1}"#, false),
            (r#"{"op":"neq","key":"s","val":"gold"}"#, false),
            (r#"{"op":"neq","key":"n","val":6}"#, true),
            (r#"{"op":"neq","key":"none","val":1}"#, true),
            (r#"{"op":"neq","key":"at","val":1}"#, true),
            (r#"{"op":"in","key":"n","vals":["x",7,5.0,true]}"#, true),
            (r#"{"op":"in","key":"n","vals":["5",true]}"#, false),
            (r#"{"op":"in","key":"n","vals":[]}"#, false),
            (r#"{"op":"in","key":"none","vals":[1]}"#, false),
            (r#"{"op":"nin","key":"n","vals":[5]}"#, false),
            (r#"{"op":"nin","key":"none","vals":[5]}"#, true),
            (r#"{"op":"gt","key":"n","val":4.9}"#, true),
            (r#"{"op":"gt","key":"n","val":5}"#, false),
            (r#"{"op":"gte","key":"n","val":5}"#, true),
            (r#"{"op":"lt","key":"f","val":3}"#, true),
            (r#"{"op":"lte","key":"f","val":2.5}"#, true),
            (r#"{"op":"lte","key":"f","val":2}"#, false),
            (r#"{"op":"gt","key":"s","val":"gold"}"#, false),
            (r#"{"op":"gt","key":"s","val":"gol"}"#, true),
            (r#"{"op":"lt","key":"s","val":7}"#, false),
            (r#"{"op":"gte","key":"none","val":0}"#, false),
            (r#"{"op":"exists","key":"at"}"#, true),
            (r#"{"op":"exists","key":"none"}"#, false),
            (r#"{"op":"prefix","key":"s","val":"go"}"#, true),
            (r#"{"op":"prefix","key":"s","val":""}"#, true),
            (r#"{"op":"prefix","key":"s","val":"old"}"#, false),
            (r#"{"op":"prefix","key":"n","val":""}"#, false),
            // Berlin to Potsdam's New Palace is about 30 km.
            (r#"{"op":"within","key":"at","lat":52.401,"lon":13.016,"radius_m":31000}"#, true),
            (r#"{"op":"within","key":"at","lat":52.401,"lon":13.016,"radius_m":29000}"#, false),
            (r#"{"op":"within","key":"at","lat":52.52,"lon":13.405,"radius_m":0}"#, true),
            (r#"{"op":"within","key":"odd","lat":0,"lon":0,"radius_m":1e12}"#, false),
            (r#"{"op":"within","key":"s","lat":0,"lon":0,"radius_m":1e12}"#, false),
            (r#"{"op":"and","nodes":[{"op":"exists","key":"s"},{"op":"exists","key":"n"}]}"#, true),
            (r#"{"op":"and","nodes":[{"op":"exists","key":"s"},{"op":"exists","key":"x"}]}"#, false),
            (r#"{"op":"or","nodes":[{"op":"exists","key":"x"},{"op":"exists","key":"n"}]}"#, true),
            (r#"{"op":"or","nodes":[{"op":"exists","key":"x"}]}"#, false),
            (r#"{"op":"not","nodes":[{"op":"exists","key":"x"}],"comment":[1]}"#, true),
        ];
        for (filter, expected) in table {
            assert_eq!(matches(filter, TAGS), expected, "{filter}");
        }
        assert!(!Filter::parse(r#"{"op":"exists","key":"s"}"#).unwrap().matches(&Tags::default()));
    }

    #[test]
    fn distances_are_those_of_a_sphere() {
        let quarter = EARTH_RADIUS_M * std::f64::consts::FRAC_PI_2;
        let table = [
            ([0.0, 0.0], [0.0, 90.0], quarter),
            ([90.0, 0.0], [0.0, 123.0], quarter),
            ([0.0, 179.0], [0.0, -179.0], quarter / 45.0),
            ([10.0, 20.0], [-10.0, -160.0], 2.0 * quarter),
            ([52.520008, 13.404954], [48.856613, 2.352222], 877_464.0),
        ];
        for (a, b, expected) in table {
            assert!((distance_m(a, b) - expected).abs() < 10.0, "{a:?} {b:?} {}", distance_m(a, b));
            assert!((distance_m(a, b) - distance_m(b, a)).abs() < 1e-6);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let deep = |levels: usize| {
            let leaf = r#"{"op":"exists","key":"k"}"#;
            format!("{}{leaf}{}", r#"{"op":"not","nodes":["#.repeat(levels - 1), "]}".repeat(levels - 1))
        };
        let wide = |nodes: usize| {
            let leaves = vec![r#"{"op":"exists","key":"k"}"#; nodes - 1];
            format!(r#"{{"op":"or","nodes":[{}]}}"#, leaves.join(","))
        };
        let vals = |n: usize| format!(r#"{{"op":"in","key":"k","vals":[{}]}}"#, vec!["1"; n].join(","));
        for good in [deep(8), wide(64), vals(128)] {
            assert!(Filter::parse(&good).is_ok(), "{good}");
        }
        let (too_deep, too_wide, too_many) = (deep(9), wide(65), vals(129));
        let long_key = format!(r#"{{"op":"exists","key":"{}"}}"#, "k".repeat(129));
        let table = [
            ("", "filter is not JSON"),
            ("[]", "filter is an array; expected an object with an op"),
            (
                "{}",
                "filter.op is missing; expected eq, neq, in, nin, gt, gte, lt, lte, exists, prefix, within, and, or or not",
            ),
            (r#"{"op":"like"}"#, "filter.op is \"like\"; expected eq,"),
            (r#"{"op":7}"#, "filter.op is 7; expected eq,"),
            (r#"{"op":"eq","val":1}"#, "filter.key is missing; expected a string of 1 to 128 bytes"),
            (r#"{"op":"exists","key":""}"#, "filter.key is \"\"; expected"),
            (&long_key, "filter.key is a string; expected a string of 1 to 128 bytes"),
            (r#"{"op":"gt","key":"k"}"#, "filter.val is missing; expected a string, a finite number or a boolean"),
            (r#"{"op":"gt","key":"k","val":[1]}"#, "filter.val is an array; expected"),
            (r#"{"op":"eq","key":"k","val":null}"#, "filter.val is null; expected"),
            (r#"{"op":"eq","key":"k","val":1e400}"#, "filter.val is 1e400; expected"),
            (r#"{"op":"prefix","key":"k","val":1}"#, "filter.val is 1; expected a string for prefix"),
            (r#"{"op":"in","key":"k","val":1}"#, "filter.vals is missing; expected an array of at most 128"),
            (r#"{"op":"nin","key":"k","vals":[{}]}"#, "filter.vals is an array; expected an array of at most 128"),
            (&too_many, "filter.vals is an array; expected an array of at most 128"),
            (r#"{"op":"and"}"#, "filter.nodes is missing; expected an array of at least one node"),
            (r#"{"op":"or","nodes":[]}"#, "filter.nodes is an array; expected an array of at least one node"),
            (r#"{"op":"not","nodes":{}}"#, "filter.nodes is an object; expected an array of at least one node"),
            (
                r#"{"op":"not","nodes":[{"op":"exists","key":"a"},{"op":"exists","key":"b"}]}"#,
                "filter.nodes is an array; expected an array of exactly one node for not",
            ),
            (
                r#"{"op":"and","nodes":[{"op":"exists","key":"a"},{"op":"or","nodes":[3]}]}"#,
                "filter.nodes[1].nodes[0] is a number; expected an object with an op",
            ),
            (
                r#"{"op":"within","key":"k","lon":0,"radius_m":1}"#,
                "filter.lat is missing; expected a number from -90 to 90",
            ),
            (
                r#"{"op":"within","key":"k","lat":91,"lon":0,"radius_m":1}"#,
                "filter.lat is 91; expected a number from -90",
            ),
            (r#"{"op":"within","key":"k","lat":0,"lon":181,"radius_m":1}"#, "filter.lon is 181; expected"),
            (r#"{"op":"within","key":"k","lat":0,"lon":0,"radius_m":-1}"#, "filter.radius_m is -1; expected metres"),
            (&too_deep, "filter has more than 8 levels"),
            (&too_wide, "filter has more than 64 nodes"),
        ];
        for (filter, expected) in table {
            let error = Filter::parse(filter).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{filter}: {error}");
        }
    }

    /// What a filter means, said again as plainly as possible, on the JSON itself.
    fn naive(filter: &Value, tags: &Value) -> bool {
        fn compare(a: &Value, b: &Value) -> Option<Ordering> {
            match (a, b) {
                (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
                (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
                (Value::Number(a), Value::Number(b)) => a.as_f64()?.partial_cmp(&b.as_f64()?),
                _ => None,
            }
        }
        let nodes = || filter["nodes"].as_array().unwrap().iter();
        let tag = tags.get(filter["key"].as_str().unwrap_or_default());
        let order = || compare(tag?, &filter["val"]);
        let is_in = || {
            filter["vals"]
                .as_array()
                .unwrap()
                .iter()
                .any(|val| tag.and_then(|tag| compare(tag, val)).is_some_and(Ordering::is_eq))
        };
        match filter["op"].as_str().unwrap() {
            "and" => nodes().all(|node| naive(node, tags)),
            "or" => nodes().any(|node| naive(node, tags)),
            "not" => !nodes().any(|node| naive(node, tags)),
            "eq" => order() == Some(Ordering::Equal),
            "neq" => order() != Some(Ordering::Equal),
            "in" => is_in(),
            "nin" => !is_in(),
            "gt" => order() == Some(Ordering::Greater),
            "gte" => order() == Some(Ordering::Greater) || order() == Some(Ordering::Equal),
            "lt" => order() == Some(Ordering::Less),
            "lte" => order() == Some(Ordering::Less) || order() == Some(Ordering::Equal),
            "exists" => tag.is_some(),
            "prefix" => tag.and_then(Value::as_str).is_some_and(|tag| tag.starts_with(filter["val"].as_str().unwrap())),
            op => panic!("{op}"),
        }
    }

    fn scalar() -> impl Strategy<Value = Value> {
        prop_oneof![
            (-3i64..4).prop_map(|i| json!(i)),
            (-6i64..7).prop_map(|i| json!(i as f64 / 2.0)),
            "[ab]{0,2}".prop_map(|s| json!(s)),
            any::<bool>().prop_map(|b| json!(b)),
        ]
    }

    fn filter() -> impl Strategy<Value = Value> {
        let op = prop::sample::select(vec!["eq", "neq", "gt", "gte", "lt", "lte", "exists", "in", "nin", "prefix"]);
        let leaf = (op, "[xyz]", scalar(), prop::collection::vec(scalar(), 0..4), "[ab]{0,2}").prop_map(
            |(op, key, val, vals, prefix)| match op {
                "prefix" => json!({"op": op, "key": key, "val": prefix}),
                _ => json!({"op": op, "key": key, "val": val, "vals": vals}),
            },
        );
        leaf.prop_recursive(4, 16, 3, |inner| {
            prop_oneof![
                (prop::sample::select(vec!["and", "or"]), prop::collection::vec(inner.clone(), 1..4))
                    .prop_map(|(op, nodes)| json!({"op": op, "nodes": nodes})),
                inner.prop_map(|node| json!({"op": "not", "nodes": [node]})),
            ]
        })
    }

    proptest! {
        #[test]
        fn agrees_with_a_naive_evaluation(
            filter in filter(), tags in prop::collection::btree_map("[xyz]", prop_oneof![scalar(), Just(json!([1, 2]))], 0..4),
        ) {
            let tags = json!(tags);
            let parsed = Filter::parse(&filter.to_string()).unwrap();
            let parsed_tags = Tags::parse(&tags.to_string()).unwrap();
            prop_assert_eq!(parsed.matches(&parsed_tags), naive(&filter, &tags), "{} {}", filter, tags);
            // And after crossing to another shard or node.
            let bytes = postcard::to_allocvec(&parsed).unwrap();
            prop_assert_eq!(postcard::from_bytes::<Filter>(&bytes).unwrap(), parsed);
        }
    }
}
