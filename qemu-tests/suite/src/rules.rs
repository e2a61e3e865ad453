//! `RULES.md`, the table of which tests cover which rule, names tests that exist.

use std::path::Path;

use crate::FILES;

/// The rows: a rule, and what stands in code spans beside it.
fn rows(table: &str) -> Vec<(&str, Vec<&str>)> {
    table
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |")?.rsplit_once(" | "))
        .filter(|(rule, _)| !rule.starts_with("---") && *rule != "rule")
        .map(|(rule, tests)| (rule, tests.split('`').skip(1).step_by(2).collect()))
        .collect()
}

#[test]
fn the_table_names_what_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let table = std::fs::read_to_string(root.join("qemu-tests/RULES.md")).unwrap();
    let rows = rows(&table);
    assert!(rows.len() > 10, "only {} rows were found", rows.len());
    let names: Vec<&str> = FILES.iter().copied().flatten().map(|test| test.name).collect();
    let exists = |name: &&str| {
        let command = name.strip_prefix("cargo xtask ").and_then(|words| words.split(' ').next());
        match command {
            Some(command) => root.join("xtask/src").join(command).with_extension("rs").is_file(),
            None => names.contains(name) || root.join(name).is_file(),
        }
    };
    for (rule, tests) in rows {
        let missing: Vec<_> = tests.iter().filter(|name| !exists(name)).collect();
        assert!(missing.is_empty(), "no such test, file or command: {missing:?}, named for: {rule}");
        assert!(!tests.is_empty(), "no test is named for: {rule}");
    }
}

#[test]
fn rows_are_read() {
    let table = "# Title\n\n| rule | tests |\n| --- | --- |\n| one, `x` here | `a::b`, `c::d` |\n| two | |\n";
    assert_eq!(rows(table), [("one, `x` here", vec!["a::b", "c::d"])]);
}
