//! The results of two kernels side by side.

use std::fmt::Write as _;

use anyhow::Result;
use serde::Serialize;

use super::ktap::{Status, Test};

/// What both kernels made of the same tests.
pub struct Report {
    rows: Vec<Row>,
}

/// One test on both kernels. A test that one of them did not come to is absent there.
struct Row {
    name: String,
    upstream: Option<Test>,
    patched: Option<Test>,
}

impl Row {
    fn is_same(&self) -> bool {
        // By number, not by name: names may hold addresses and process ids.
        let statuses = |test: &Test| (test.status, test.cases.iter().map(|case| case.status).collect::<Vec<_>>());
        self.upstream.is_some() && self.upstream.as_ref().map(statuses) == self.patched.as_ref().map(statuses)
    }

    /// The cases that differ, for people.
    fn differing_cases(&self) -> Vec<String> {
        let (Some(upstream), Some(patched)) = (&self.upstream, &self.patched) else { return Vec::new() };
        let mut lines = Vec::new();
        for number in 0..upstream.cases.len().max(patched.cases.len()) {
            let (one, two) = (upstream.cases.get(number), patched.cases.get(number));
            if one.map(|case| case.status) != two.map(|case| case.status) {
                let word = |case: Option<&super::ktap::Case>| case.map_or("not there", |case| word(case.status));
                let name = two.or(one).map_or("", |case| case.name.as_str());
                lines.push(format!("{}: {name}: upstream {}, patched {}", number + 1, word(one), word(two)));
            }
        }
        lines
    }
}

impl Report {
    /// Pairs the tests by name, in the order of the first kernel.
    pub fn new(upstream: Vec<Test>, mut patched: Vec<Test>) -> Self {
        let mut rows = Vec::new();
        for test in upstream {
            let other = patched.iter().position(|other| other.name == test.name).map(|index| patched.remove(index));
            rows.push(Row { name: test.name.clone(), upstream: Some(test), patched: other });
        }
        rows.extend(patched.into_iter().map(|test| Row {
            name: test.name.clone(),
            upstream: None,
            patched: Some(test),
        }));
        Self { rows }
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
            let (upstream, patched) = (cell(row.upstream.as_ref()), cell(row.patched.as_ref()));
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
            upstream: Option<OutputCell<'a>>,
            patched: Option<OutputCell<'a>>,
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
            upstream: row.upstream.as_ref().map(output),
            patched: row.patched.as_ref().map(output),
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

fn cell(test: Option<&Test>) -> String {
    let Some(test) = test else { return "not run".into() };
    let mut text = word(test.status).to_owned();
    if !test.cases.is_empty() {
        let [passed, failed, skipped] = counts(test);
        let _ = write!(text, " ({passed}, {failed}, {skipped})");
    } else if test.status != Status::Passed && !test.why.is_empty() {
        let _ = write!(text, " ({})", test.why);
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
        assert_eq!(json["tests"][2]["patched"], serde_json::Value::Null);
    }
}
