//! Whether each architecture's table of system calls has the numbers of ours.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::cache::walk;
use crate::cmd::read_file;
use crate::source::Source;

use super::overlay::Overlay;

/// The call before ours.
const NEIGHBOUR: &str = "fchroot";

/// Ours, in their order.
const CALLS: [&str; 2] = ["spawn_template_create", "spawn_template_spawn"];

/// The tables of `source` that `overlay` leaves without the numbers.
pub fn without_numbers(source: &Source, overlay: &Overlay) -> Result<Vec<PathBuf>> {
    let mut missing = Vec::new();
    for folder in ["arch", "scripts"] {
        let files = walk(&source.dir.join(folder))?.into_iter().map(|path| Path::new(folder).join(path));
        for path in files.filter(|path| path.extension().is_some_and(|extension| extension == "tbl")) {
            let text = match overlay.files.get(&path) {
                Some(Some(changed)) => read_file(changed)?,
                Some(None) => continue,
                // A link leads to one that is looked at itself.
                None if source.dir.join(&path).is_symlink() => continue,
                None => read_file(&source.dir.join(&path))?,
            };
            if has_numbers(&text) == Some(false) {
                missing.push(path);
            }
        }
    }
    Ok(missing)
}

/// Whether the calls follow their neighbour; nothing if that is not in the table.
fn has_numbers(table: &str) -> Option<bool> {
    let number_of = |name: &str| {
        let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        lines.find(|words| words.get(2) == Some(&name))?.first()?.parse::<u32>().ok()
    };
    let neighbour = number_of(NEIGHBOUR)?;
    Some(CALLS.iter().zip(neighbour + 1..).all(|(name, number)| number_of(name) == Some(number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_their_neighbour() {
        let line = |number: u32, name: &str| format!("{number}\tcommon\t{name}\t\tsys_{name}\n");
        let table = |numbers: [u32; 3]| {
            [NEIGHBOUR, CALLS[0], CALLS[1]].iter().zip(numbers).map(|(name, number)| line(number, name)).collect()
        };
        let [good, bad]: [String; 2] = [table([582, 583, 584]), table([472, 474, 473])];
        assert_eq!(has_numbers(&good), Some(true));
        assert_eq!(has_numbers(&bad), Some(false));
        assert_eq!(has_numbers(&line(472, NEIGHBOUR)), Some(false));
        assert_eq!(has_numbers("# another kind of table\n1\tx\ty\n"), None);
    }
}
