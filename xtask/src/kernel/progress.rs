//! What make is doing, read from its output.

/// How many steps a build from nothing has, measured; only an estimate to show how far a build is.
pub const STEPS_OF_A_FULL_BUILD: usize = 2280;

/// Counts the steps of a kernel build.
pub struct Progress {
    expected: Option<usize>,
    done: usize,
}

impl Progress {
    /// `expected` steps, if there is an idea.
    pub fn new(expected: Option<usize>) -> Self {
        Self { expected, done: 0 }
    }

    /// Takes a line of output; says what to show when it begins a step.
    pub fn line(&mut self, line: &str) -> Option<String> {
        let step = step(line)?;
        self.done += 1;
        Some(match self.expected {
            Some(expected) if self.done <= expected => format!("{} of about {expected}, {step}", self.done),
            _ => format!("{}, {step}", self.done),
        })
    }

    /// How many steps there were.
    pub fn done(&self) -> usize {
        self.done
    }
}

/// "CC mm/slub.o" of the line "  CC      mm/slub.o".
fn step(line: &str) -> Option<String> {
    let text = line.strip_prefix("  ")?;
    let mut words = text.split_whitespace();
    let verb = words.next()?;
    let upper = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || "+-_".contains(c);
    if text.starts_with(' ') || !verb.chars().all(upper) || verb.len() < 2 {
        return None;
    }
    let what = words.last()?;
    Some(format!("{verb} {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_told_from_other_output() {
        assert_eq!(step("  CC      mm/slub.o").as_deref(), Some("CC mm/slub.o"));
        assert_eq!(step("  CC [M]  drivers/x.o").as_deref(), Some("CC drivers/x.o"));
        assert_eq!(step("  RUSTC L rust/core.o").as_deref(), Some("RUSTC rust/core.o"));
        assert_eq!(step("mm/slub.c:12:3: error: no"), None);
        assert_eq!(step("   12 |   int x;"), None);
        assert_eq!(step("make[1]: Entering directory"), None);
    }

    #[test]
    fn the_estimate_is_dropped_when_it_was_wrong() {
        let mut progress = Progress::new(Some(1));
        assert_eq!(progress.line("  CC a.o").as_deref(), Some("1 of about 1, CC a.o"));
        assert_eq!(progress.line("noise"), None);
        assert_eq!(progress.line("  CC b.o").as_deref(), Some("2, CC b.o"));
        assert_eq!(progress.done(), 2);
    }
}
