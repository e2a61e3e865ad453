//! What several callers at a time come to.

use std::fmt::Write as _;

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::report::{Line, Machine, Setup, Unit, thousands};

/// The column that the others are compared with.
pub const BASELINE: &str = "posix_spawn";

/// The columns, in order, with what people call them.
pub const METHODS: [(&str, &str); 3] =
    [(BASELINE, BASELINE), ("one_template", "one template"), ("own_templates", "own templates")];

/// The children: the smallest, and what programs are like. Where wall time is measured no dynamic ones: under emulation
/// most of theirs is translating the libraries again.
pub fn children(unit: Unit) -> &'static str {
    match unit {
        Unit::Instructions => "libc-free,dynamic",
        Unit::Ns => "libc-free,static",
    }
}

/// How many processors the guest has where wall time is measured.
pub const PROCESSORS: u32 = 2;

/// The cost of one spawn, of those that so many callers make at the same time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scaling {
    /// The program that is started.
    pub child: String,
    /// How many threads start it.
    pub callers: u32,
    /// How.
    pub method: String,
    /// How many samples were taken, of several spawns each.
    pub n: u64,
    /// A tenth of the samples are not above this.
    pub p10: u64,
    /// The median.
    pub p50: u64,
    /// Nine tenths of the samples are not above this.
    pub p90: u64,
}

/// The outcome of one boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// How the guest was run.
    pub machine: String,
    /// How many processors it had.
    pub processors: u32,
    /// What the figures count.
    pub unit: Unit,
    /// The figures.
    pub results: Vec<Scaling>,
}

/// How the guest is run to get figures in `unit`; see `qemu`.
pub fn setup(unit: Unit, kvm: bool) -> Setup {
    match unit {
        Unit::Ns if !kvm => Setup { accel: "tcg,thread=multi", cpu: "max", unit },
        _ => Setup::new(unit),
    }
}

/// One way with one number of callers.
#[derive(Debug, PartialEq)]
pub struct Cell {
    /// Thousands of instructions per spawn, or spawns per second.
    pub figure: String,
    /// The 10th and 90th percentile.
    pub spread: String,
    /// How many times the baseline's that is.
    pub ratio: Option<f64>,
}

impl Block {
    /// Puts together what guest-bench has printed, and what it was printed on.
    pub fn new(setup: &Setup, processors: u32, lines: impl IntoIterator<Item = Line>) -> Result<(Self, Machine)> {
        let mut machine = None;
        let mut results = Vec::new();
        for line in lines {
            match line {
                Line::Scaling(result) => results.push(result),
                Line::Machine(found) => machine = Some(found),
                _ => {}
            }
        }
        let Some(machine) = machine else { bail!("guest-bench ended before its last line") };
        ensure!(!results.is_empty(), "guest-bench has measured no callers");
        Ok((Self { machine: setup.described(processors, &machine), processors, unit: setup.unit, results }, machine))
    }

    /// The rows, in order: a child and a number of callers.
    pub fn rows(&self) -> Vec<(&str, u32)> {
        let mut rows: Vec<(&str, u32)> = Vec::new();
        for result in &self.results {
            let row = (result.child.as_str(), result.callers);
            if !rows.contains(&row) {
                rows.push(row);
            }
        }
        rows
    }

    /// The figure of one way with so many callers.
    pub fn cell(&self, (child, callers): (&str, u32), method: &str) -> Option<Cell> {
        let result = |method: &str| {
            let is_row = |result: &&Scaling| (result.child.as_str(), result.callers) == (child, callers);
            self.results.iter().filter(is_row).find(|result| result.method == method)
        };
        let Scaling { p10, p50, p90, .. } = result(method)?;
        let baseline = result(BASELINE).filter(|_| method != BASELINE).map(|baseline| baseline.p50 as f64);
        let cost = *p50 as f64;
        let rate = |cost: &u64| format!("{:.0}", 1e9 / (*cost).max(1) as f64);
        Some(match self.unit {
            Unit::Instructions => Cell {
                figure: thousands(*p50),
                spread: format!("{} - {}", thousands(*p10), thousands(*p90)),
                ratio: baseline.map(|baseline| cost / baseline.max(1.0)),
            },
            Unit::Ns => Cell {
                figure: rate(p50),
                spread: format!("{} - {}", rate(p90), rate(p10)),
                ratio: baseline.map(|baseline| baseline / cost.max(1.0)),
            },
        })
    }

    /// What the figures are.
    pub fn unit(&self) -> &'static str {
        match self.unit {
            Unit::Instructions => "thousand guest instructions per spawn, all callers' work together, on one processor",
            Unit::Ns => "spawns per second of wall time, all callers together",
        }
    }

    /// What the ratios are.
    pub fn ratio(&self) -> &'static str {
        match self.unit {
            Unit::Instructions => "so many times the instructions of posix_spawn: below 1 is cheaper",
            Unit::Ns => "so many times the spawns per second of posix_spawn: above 1 is faster",
        }
    }

    /// The table for people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "Threads of one process that start programs at the same time");
        let _ = writeln!(text, "  machine  {}", self.machine);
        let _ = writeln!(text, "  cells    {}; median, below it 10th - 90th percentile", self.unit());
        let _ = writeln!(text, "  1.00x    {}", self.ratio());
        let cells =
            |cells: &mut dyn Iterator<Item = String>| cells.map(|cell| format!(" {cell:>18}")).collect::<String>();
        let _ = writeln!(text, "{:<20}{}", "", cells(&mut METHODS.iter().map(|(_, name)| (*name).to_owned())));
        for row @ (child, callers) in self.rows() {
            let found: Vec<Option<Cell>> = METHODS.iter().map(|(method, _)| self.cell(row, method)).collect();
            let cell = |cell: &Option<Cell>| match cell {
                Some(Cell { figure, ratio: Some(ratio), .. }) => format!("{figure} {ratio:5.2}x"),
                Some(Cell { figure, ratio: None, .. }) => figure.clone(),
                None => "-".into(),
            };
            let spread = |cell: &Option<Cell>| cell.as_ref().map_or(String::new(), |cell| cell.spread.clone());
            let name = format!("{child:<10}{}", callers_named(callers));
            let _ = writeln!(text, "{name:<20}{}", cells(&mut found.iter().map(cell)));
            let _ = writeln!(text, "{:<20}{}", "", cells(&mut found.iter().map(spread)).trim_end());
        }
        text
    }
}

/// "1 caller", "2 callers".
pub fn callers_named(callers: u32) -> String {
    format!("{callers} caller{}", if callers == 1 { "" } else { "s" })
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// One child and one and two callers, of which the second makes templates cheaper than `posix_spawn`.
    pub fn block(unit: Unit) -> Block {
        let result = |callers, method: &str, p50| {
            let (child, method) = ("libc-free".into(), method.into());
            Line::Scaling(Scaling { child, callers, method, n: 9, p10: p50 - 1000, p50, p90: p50 + 1000 })
        };
        let machine = Machine { kernel: "7.3.4".into(), cpu: "QEMU".into(), cpuid_ns: 1, clocksource: "tsc".into() };
        let lines = [
            result(1, "posix_spawn", 200_000),
            result(1, "one_template", 100_000),
            result(2, "posix_spawn", 250_000),
            result(2, "own_templates", 125_000),
            Line::Machine(machine),
        ];
        Block::new(&setup(unit, false), 2, lines).unwrap().0
    }

    #[test]
    fn lines_are_read() {
        let line =
            r#"{"callers":2,"child":"static","method":"own_templates","n":9,"p10":1,"p50":2,"p90":3,"type":"scaling"}"#;
        let Line::Scaling(result) = Line::parse(line).unwrap() else { panic!("another line") };
        assert_eq!((result.callers, result.p50), (2, 2));
        assert!(Block::new(&setup(Unit::Ns, true), 2, []).is_err());
    }

    #[test]
    fn instructions_and_rates_are_compared() {
        let cell = |unit, method| block(unit).cell(("libc-free", 1), method);
        let expected =
            |figure: &str, spread: &str, ratio| Some(Cell { figure: figure.into(), spread: spread.into(), ratio });
        assert_eq!(cell(Unit::Instructions, "posix_spawn"), expected("200.0", "199.0 - 201.0", None));
        assert_eq!(cell(Unit::Instructions, "one_template"), expected("100.0", "99.0 - 101.0", Some(0.5)));
        assert_eq!(cell(Unit::Ns, "posix_spawn"), expected("5000", "4975 - 5025", None));
        assert_eq!(cell(Unit::Ns, "one_template"), expected("10000", "9901 - 10101", Some(2.0)));
        assert_eq!(cell(Unit::Ns, "own_templates"), None);
    }

    #[test]
    fn the_table_says_what_it_shows() {
        let table = block(Unit::Ns).table();
        for expected in
            ["tcg,thread=multi", "-smp 2", "spawns per second", "own templates", "libc-free 2 callers", "8000"]
        {
            assert!(table.contains(expected), "{expected} is not in\n{table}");
        }
        assert!(block(Unit::Instructions).table().contains("icount"));
        assert!(table.lines().all(|line| line.chars().count() <= 120), "{table}");
    }
}
