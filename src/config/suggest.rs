//! "Did you mean": the known name nearest to what was written.

/// The candidate nearest to `written`, where one is near enough to be meant.
///
/// A name that was written without its section, or in the wrong one, is found by its last part.
pub(super) fn nearest<'a>(written: &str, candidates: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let last = |name: &'a str| name.rsplit('.').next().unwrap_or(name);
    let written_last = written.rsplit('.').next().unwrap_or(written);
    let by_distance = candidates
        .clone()
        .map(|name| (distance(written, name), name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 5)
        .min_by_key(|(distance, _)| *distance);
    by_distance.map(|(_, name)| name).or_else(|| candidates.into_iter().find(|name| last(name) == written_last))
}

/// Edits (insert, delete, replace, swap of neighbours) that lead from one text to the other: the optimal string alignment distance.
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().take(80).collect(), to.chars().collect());
    let mut rows = vec![vec![0; to.len() + 1]; from.len() + 1];
    for i in 0..=from.len() {
        for j in 0..=to.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
                let edited = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                let swaps = i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1];
                if swaps { edited.min(rows[i - 2][j - 2] + 1) } else { edited }
            };
        }
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_meant() {
        let known = ["listen.client", "listen.admin", "outbox.high", "outbox.low", "limits.message_size", "log.level"];
        let table = [
            ("listen.clinet", Some("listen.client")),
            ("listen.cliant", Some("listen.client")),
            ("outbox.hi", Some("outbox.high")),
            ("message_size", Some("limits.message_size")),
            ("session.message_size", Some("limits.message_size")),
            ("limits.messagesize", Some("limits.message_size")),
            ("log.leve", Some("log.level")),
            ("completely.different", None),
            ("", None),
        ];
        for (written, expect) in table {
            assert_eq!(nearest(written, known.into_iter()), expect, "{written}");
        }
        assert_eq!(nearest(&"x".repeat(100_000), known.into_iter()), None);
    }
}
