//! `PARITY.md` names a test for each row, and there is one.

use std::fs;
use std::path::Path;

#[test]
fn every_row_has_its_test() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let tests = read("tests/spawn_parity.rs") + &read("tests/spawn_tokio.rs");
    let table = read("PARITY.md");
    let rows = table.lines().filter(|line| line.starts_with("| ")).skip(2);
    let mut names = Vec::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 6, "{row}");
        assert!(cells.iter().all(|cell| !cell.is_empty()), "{row}");
        let name = cells[5].trim_matches('`');
        assert!(tests.contains(&format!("fn {name}()")), "no test {name}");
        names.push(name.to_owned());
    }
    // And no test that has lost its row.
    for line in read("tests/spawn_parity.rs").split("#[test]\n").skip(1) {
        let name = line.trim_start_matches("fn ").split('(').next().unwrap();
        assert!(names.iter().any(|known| known == name), "no row for {name}");
    }
}
