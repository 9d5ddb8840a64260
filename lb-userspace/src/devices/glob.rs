//! Device names as operators write them: `*` for any text, `?` for one character.

/// Whether `name` is matched by `glob`.
pub(super) fn matches(glob: &str, name: &str) -> bool {
    match (glob.chars().next(), name.chars().next()) {
        (None, None) => true,
        (Some('*'), _) => {
            let rest = &glob[1..];
            let mut ends = name.char_indices().map(|(at, _)| at).chain([name.len()]);
            ends.any(|at| matches(rest, &name[at..]))
        }
        (Some('?'), Some(n)) => matches(&glob[1..], &name[n.len_utf8()..]),
        (Some(g), Some(n)) if g == n => matches(&glob[g.len_utf8()..], &name[n.len_utf8()..]),
        (Some(_) | None, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn globs_match_whole_names() {
        for (glob, name) in
            [("eth0", "eth0"), ("eth*", "eth0.1"), ("*", ""), ("en?s*", "enps3"), ("*0", "eth0")]
        {
            assert!(matches(glob, name), "{glob} {name}");
        }
        for (glob, name) in [("eth", "eth0"), ("eth?", "eth"), ("cali*", "xcali"), ("", "x")] {
            assert!(!matches(glob, name), "{glob} {name}");
        }
    }
}
