//! The results of two kernels side by side.

use std::fmt::Write as _;

use anyhow::Result;
use serde::Serialize;

use super::ktap::{Status, Test};

/// What both kernels made of the same tests.
pub struct Report {
    rows: Vec<Row>,
}

/// One test on both kernels: all its runs. A test that one of them did not come to has none there.
struct Row {
    name: String,
    upstream: Vec<Test>,
    patched: Vec<Test>,
}

/// What is compared of a run: how it ended, unless a case that failed says why, and each of its cases. Of several cases
/// with a race none may usually fail, and yet most runs. By number, not by name: names may hold addresses and process ids.
fn statuses(test: &Test) -> Vec<Status> {
    let explained = test.status == Status::Failed && test.cases.iter().any(|case| case.status == Status::Failed);
    let whole = if explained { Status::Passed } else { test.status };
    std::iter::once(whole).chain(test.cases.iter().map(|case| case.status)).collect()
}

/// How the part with this number ended in most of the runs; for none when most did not come to it.
fn usual(runs: &[Test], part: usize) -> Option<Status> {
    let seen: Vec<_> = runs.iter().map(|test| statuses(test).get(part).copied()).collect();
    let times = |status: &Option<Status>| seen.iter().filter(|other| *other == status).count();
    // Of those equally often, the first that was seen.
    seen.iter().rev().max_by_key(|status| times(status)).copied().flatten()
}

impl Row {
    /// How many parts the longest run has.
    fn parts(&self) -> usize {
        self.upstream.iter().chain(&self.patched).map(|test| statuses(test).len()).max().unwrap_or(0)
    }

    /// Whether each part usually ends the same on both. A test that a race makes fail now and then on one kernel is no
    /// difference between the two.
    fn is_same(&self) -> bool {
        !self.upstream.is_empty()
            && !self.patched.is_empty()
            && (0..self.parts()).all(|part| usual(&self.upstream, part) == usual(&self.patched, part))
    }

    /// The cases that are not the same in all runs, for people.
    fn differing_cases(&self) -> Vec<String> {
        if self.upstream.is_empty() || self.patched.is_empty() {
            return Vec::new();
        }
        let mut lines = Vec::new();
        for number in 1..self.parts() {
            let case = |test: &Test| test.cases.get(number - 1).map(|case| case.status);
            let mut all = self.upstream.iter().chain(&self.patched).map(case);
            let first = all.next();
            if all.any(|status| Some(status) != first) {
                let mut runs = self.patched.iter().chain(&self.upstream);
                let name = runs.find_map(|test| test.cases.get(number - 1)).map_or("", |case| case.name.as_str());
                let (upstream, patched) = (times(&self.upstream, case), times(&self.patched, case));
                lines.push(format!("{number}: {name}: upstream {upstream}, patched {patched}"));
            }
        }
        lines
    }
}

/// What a case came to: "ok", or of several runs "ok 10 times, FAILED 1 times".
fn times(runs: &[Test], case: impl Fn(&Test) -> Option<Status>) -> String {
    let word = |status: Option<Status>| status.map_or("not there", word);
    if let [only] = runs {
        return word(case(only)).to_owned();
    }
    let all = [Some(Status::Passed), Some(Status::Failed), Some(Status::Skipped), None];
    let counted = all.map(|status| (status, runs.iter().filter(|run| case(run) == status).count()));
    let parts: Vec<_> = counted
        .into_iter()
        .filter(|&(_, count)| count > 0)
        .map(|(status, count)| format!("{} {count} of {}", word(status), runs.len()))
        .collect();
    parts.join(" and ")
}

impl Report {
    /// Pairs the tests by name, in the order of the first kernel.
    pub fn new(upstream: Vec<Test>, patched: Vec<Test>) -> Self {
        let mut report = Self { rows: Vec::new() };
        report.add(upstream, patched);
        report
    }

    /// Adds runs of the same tests, or some of them.
    pub fn add(&mut self, upstream: Vec<Test>, patched: Vec<Test>) {
        for test in upstream {
            self.row(&test.name).upstream.push(test);
        }
        for test in patched {
            self.row(&test.name).patched.push(test);
        }
    }

    fn row(&mut self, name: &str) -> &mut Row {
        let index = self.rows.iter().position(|row| row.name == name).unwrap_or_else(|| {
            self.rows.push(Row { name: name.to_owned(), upstream: Vec::new(), patched: Vec::new() });
            self.rows.len() - 1
        });
        &mut self.rows[index]
    }

    /// The tests that differ and ran on both.
    pub fn differing(&self) -> Vec<String> {
        let ran = |row: &&Row| !row.upstream.is_empty() && !row.patched.is_empty();
        self.rows.iter().filter(ran).filter(|row| !row.is_same()).map(|row| row.name.clone()).collect()
    }

    /// How many tests differ.
    pub fn differences(&self) -> usize {
        self.rows.iter().filter(|row| !row.is_same()).count()
    }

    /// The table for people.
    pub fn table(&self) -> String {
        let mut text =
            String::from("The kernel's selftests; in brackets the cases of each that passed, failed, were skipped\n\n");
        let width = self.rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:width$}  {:24}  patched", "", "upstream");
        for row in &self.rows {
            let mark = if row.is_same() { "" } else { "  DIFFERS" };
            let (upstream, patched) = (cell(&row.upstream), cell(&row.patched));
            let line = format!("{:width$}  {upstream:24}  {patched:24}{mark}", row.name);
            let _ = writeln!(text, "{}", line.trim_end());
            for case in row.differing_cases() {
                let _ = writeln!(text, "{:width$}  {case}", "");
            }
        }
        let _ = write!(text, "\n{} tests, {} differ", self.rows.len(), self.differences());
        text
    }

    /// The same for programs.
    pub fn json(&self) -> Result<String> {
        #[derive(Serialize)]
        struct Output<'a> {
            tests: Vec<OutputRow<'a>>,
            differences: usize,
        }
        #[derive(Serialize)]
        struct OutputRow<'a> {
            test: &'a str,
            upstream: Vec<OutputCell<'a>>,
            patched: Vec<OutputCell<'a>>,
            same: bool,
            differing_cases: Vec<String>,
        }
        #[derive(Serialize)]
        struct OutputCell<'a> {
            status: Status,
            why: &'a str,
            passed: usize,
            failed: usize,
            skipped: usize,
        }
        fn output(test: &Test) -> OutputCell<'_> {
            let [passed, failed, skipped] = counts(test);
            OutputCell { status: test.status, why: &test.why, passed, failed, skipped }
        }
        let tests = self.rows.iter().map(|row| OutputRow {
            test: &row.name,
            upstream: row.upstream.iter().map(output).collect(),
            patched: row.patched.iter().map(output).collect(),
            same: row.is_same(),
            differing_cases: row.differing_cases(),
        });
        let output = Output { tests: tests.collect(), differences: self.differences() };
        Ok(serde_json::to_string_pretty(&output)? + "\n")
    }
}

fn counts(test: &Test) -> [usize; 3] {
    [Status::Passed, Status::Failed, Status::Skipped].map(|status| test.count(status))
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Passed => "ok",
        Status::Failed => "FAILED",
        Status::Skipped => "SKIP",
    }
}

/// The first of the runs, and how many there were.
fn cell(runs: &[Test]) -> String {
    let Some(test) = runs.first() else { return "not run".into() };
    let mut text = word(test.status).to_owned();
    if !test.cases.is_empty() {
        let [passed, failed, skipped] = counts(test);
        let _ = write!(text, " ({passed}, {failed}, {skipped})");
    } else if test.status != Status::Passed && !test.why.is_empty() {
        let _ = write!(text, " ({})", test.why);
    }
    if runs.len() > 1 {
        let _ = write!(text, ", {} runs", runs.len());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::ktap::Case;
    use super::*;

    fn test(name: &str, status: Status, cases: &[Status]) -> Test {
        let case = |(number, status): (usize, &Status)| Case { name: format!("case of pid {number}"), status: *status };
        let cases = cases.iter().enumerate().map(case).collect();
        Test { name: name.into(), status, why: String::new(), cases }
    }

    #[test]
    fn the_same_results_do_not_differ_however_they_are_called() {
        use Status::*;
        let upstream = vec![test("a", Failed, &[Passed, Failed]), test("b", Skipped, &[])];
        let mut patched = upstream.clone();
        patched[0].cases[0].name = "case of pid 77".into();
        patched.reverse();
        let report = Report::new(upstream, patched);
        assert_eq!(report.differences(), 0);
        assert!(report.table().contains("FAILED (1, 1, 0)"), "{}", report.table());
        assert!(report.table().ends_with("2 tests, 0 differ"));
    }

    #[test]
    fn a_case_a_test_and_an_absence_count_as_differences() {
        use Status::*;
        let upstream = vec![test("a", Failed, &[Passed, Failed]), test("b", Passed, &[]), test("c", Passed, &[])];
        let patched = vec![test("a", Failed, &[Failed, Failed]), test("b", Failed, &[]), test("d", Passed, &[])];
        let report = Report::new(upstream, patched);
        assert_eq!(report.differences(), 4);
        assert!(report.table().contains("1: case of pid 0: upstream ok, patched FAILED"), "{}", report.table());
        let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(json["differences"], 4);
        assert_eq!(json["tests"][2]["patched"].as_array().map(Vec::len), Some(0));
    }

    #[test]
    fn what_is_usual_on_both_is_no_difference() {
        use Status::*;
        let passing = || vec![test("a", Passed, &[Passed, Passed]), test("b", Passed, &[])];
        let failing = || vec![test("a", Failed, &[Passed, Failed]), test("b", Passed, &[])];
        let mut report = Report::new(passing(), failing());
        assert_eq!(report.differing(), ["a"]);
        report.add(passing(), passing());
        report.add(passing(), passing());
        assert_eq!(report.differences(), 0, "a race, once in three runs");
        let line = "2: case of pid 1: upstream ok 3 of 3, patched ok 2 of 3 and FAILED 1 of 3";
        assert!(report.table().contains(line), "{}", report.table());
        report.add(passing(), failing());
        report.add(passing(), failing());
        assert_eq!(report.differences(), 1, "three times in five");
    }

    #[test]
    fn a_run_that_fails_by_a_different_case_each_time_is_as_good_as_its_cases() {
        use Status::*;
        let passing = || vec![test("a", Passed, &[Passed, Passed])];
        let mut report = Report::new(passing(), vec![test("a", Failed, &[Failed, Passed])]);
        report.add(passing(), vec![test("a", Failed, &[Passed, Failed])]);
        report.add(passing(), passing());
        assert_eq!(report.differences(), 0);
        // What no case explains counts.
        let report = Report::new(passing(), vec![test("a", Failed, &[Passed, Passed])]);
        assert_eq!(report.differences(), 1);
    }
}
