//! Reads what run_kselftest.sh prints: TAP, with each program's own TAP as comments before its result. Pure: bytes
//! in, tests out.

use serde::Serialize;

/// How a test or a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Well.
    Passed,
    /// Badly.
    Failed,
    /// It could not be judged here.
    Skipped,
}

/// One check of a test program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Its description.
    pub name: String,
    /// How it ended.
    pub status: Status,
}

/// One test program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    /// Its folder and name, for example "exec: execveat".
    pub name: String,
    /// How it ended.
    pub status: Status,
    /// Why, where the runner knows, for example "exit=1".
    pub why: String,
    /// Its checks in order; a program that does not speak TAP has none.
    pub cases: Vec<Case>,
}

impl Test {
    /// What the kernel's console is as a test: passed when the kernel did not complain.
    pub fn of_console<'a>(complaints: impl Iterator<Item = &'a str>) -> Self {
        let cases: Vec<_> =
            complaints.map(|line| Case { name: without_stamp(line).to_owned(), status: Status::Failed }).collect();
        let status = if cases.is_empty() { Status::Passed } else { Status::Failed };
        Self { name: "the kernel's console".into(), status, why: String::new(), cases }
    }

    /// How many cases ended like this.
    pub fn count(&self, status: Status) -> usize {
        self.cases.iter().filter(|case| case.status == status).count()
    }
}

fn without_stamp(line: &str) -> &str {
    line.split_once("] ").map_or(line, |(_, text)| text)
}

/// Puts tests together from output that is cut anywhere.
#[derive(Default)]
pub struct Parser {
    partial: Vec<u8>,
    running: Option<String>,
    cases: Vec<Case>,
    tests: Vec<Test>,
}

impl Parser {
    /// Takes in more output.
    pub fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                let line = std::mem::take(&mut self.partial);
                self.line(String::from_utf8_lossy(&line).trim_end());
            } else {
                self.partial.push(byte);
            }
        }
    }

    /// The test that is running.
    pub fn running(&self) -> Option<&str> {
        self.running.as_deref()
    }

    /// All tests that came to an end.
    pub fn finish(self) -> Vec<Test> {
        self.tests
    }

    fn line(&mut self, line: &str) {
        if let Some(comment) = line.strip_prefix("# ") {
            if let Some(name) = comment.strip_prefix("selftests: ") {
                self.running = Some(name.to_owned());
                self.cases.clear();
            } else if let Some(Entry { status, text, .. }) = entry(comment) {
                self.cases.push(Case { name: text.to_owned(), status });
            }
        } else if let Some(Entry { mut status, text, why }) = entry(line)
            && let Some(name) = text.strip_prefix("selftests: ")
        {
            // The shell's word for a program that is not there, such as an interpreter the guest does not have.
            if why == "exit=127" {
                status = Status::Skipped;
            }
            self.running = None;
            let cases = std::mem::take(&mut self.cases);
            self.tests.push(Test { name: name.to_owned(), status, why: why.to_owned(), cases });
        }
    }
}

struct Entry<'a> {
    status: Status,
    text: &'a str,
    /// What follows the text behind " # ".
    why: &'a str,
}

/// Reads "ok 7 text", "not ok 7 text # why", "ok 7 text # SKIP why". An expected failure counts as skipped.
fn entry(line: &str) -> Option<Entry<'_>> {
    let (ok, rest) = match line.strip_prefix("not ok ") {
        Some(rest) => (false, rest),
        None => (true, line.strip_prefix("ok ")?),
    };
    let (number, text) = rest.split_once(' ').unwrap_or((rest, ""));
    number.parse::<u32>().ok()?;
    let (text, why) = text.split_once(" # ").unwrap_or((text, ""));
    let (text, why) = (text.trim_start_matches("- ").trim(), why.trim());
    let directive = why.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
    let status = match (ok, directive.as_str()) {
        (_, "SKIP" | "XFAIL" | "TODO") => Status::Skipped,
        (true, _) => Status::Passed,
        (false, _) => Status::Failed,
    };
    Some(Entry { status, text, why })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Taken from runs, shortened.
    const LOG: &str = "\
TAP version 13
1..4
# overriding timeout to 300
# selftests: exec: execveat
# TAP version 13
# 1..3
# ok 1 Check success of execveat(3, '../execveat', 0)...
# # Invoke exec via 'execveat'
# not ok 2 Check failure of execveat(8, '', 4096) with EBADF
# ok 3 Check # SKIP no such file system
# # Totals: pass:1 fail:1 xfail:0 xpass:0 skip:1 error:0
not ok 1 selftests: exec: execveat # exit=1
# overriding timeout to 300
# selftests: exec: binfmt_script.py
# /usr/bin/env: 'python3': No such file or directory
not ok 2 selftests: exec: binfmt_script.py # exit=127
# overriding timeout to 300
# selftests: exec: binfmt_misc_bpf
ok 3 selftests: exec: binfmt_misc_bpf # SKIP
# selftests: core: close_range_test
# ok 1 - core.close_range
ok 4 selftests: core: close_range_test
# Totals: pass:1 fail:2 xfail:0 xpass:0 skip:1 error:0
";

    fn parsed(text: &str, piece: usize) -> Vec<Test> {
        let mut parser = Parser::default();
        text.as_bytes().chunks(piece).for_each(|bytes| parser.feed(bytes));
        parser.finish()
    }

    #[test]
    fn programs_and_their_cases_are_read() {
        let tests = parsed(LOG, LOG.len());
        assert_eq!(tests, parsed(LOG, 5));
        let names: Vec<_> = tests.iter().map(|test| (test.name.as_str(), test.status)).collect();
        assert_eq!(
            names,
            [
                ("exec: execveat", Status::Failed),
                ("exec: binfmt_script.py", Status::Skipped),
                ("exec: binfmt_misc_bpf", Status::Skipped),
                ("core: close_range_test", Status::Passed),
            ]
        );
        let statuses: Vec<_> = tests[0].cases.iter().map(|case| case.status).collect();
        assert_eq!(statuses, [Status::Passed, Status::Failed, Status::Skipped]);
        assert_eq!(tests[0].cases[2].name, "Check");
        assert_eq!(tests[0].why, "exit=1");
        assert_eq!(tests[3].cases, [Case { name: "core.close_range".into(), status: Status::Passed }]);
    }

    #[test]
    fn a_test_that_did_not_end_is_none() {
        let mut parser = Parser::default();
        parser.feed(b"# selftests: pidfd: pidfd_wait\n# ok 1 global.wait\n");
        assert_eq!(parser.running(), Some("pidfd: pidfd_wait"));
        assert!(parser.finish().is_empty());
    }

    #[test]
    fn the_console_is_a_test_like_any() {
        assert_eq!(Test::of_console(std::iter::empty()).status, Status::Passed);
        let test = Test::of_console(["[    1.5] WARNING: fs/exec.c:12 at x"].into_iter());
        assert_eq!((test.status, test.cases[0].name.as_str()), (Status::Failed, "WARNING: fs/exec.c:12 at x"));
    }
}
