//! What guest-bench says about short tools, and how people and programs get to read it.

use std::fmt::Write as _;

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::report::{Line, Machine, SPAWN_TEMPLATE, Setup, Unit, thousands};

/// How many calls are in flight at the most.
pub const MOST_IN_FLIGHT: u32 = 4;

/// The columns, in order.
const METHODS: [&str; 3] = ["std", "posix_spawn", SPAWN_TEMPLATE];

/// So many of the unit are a second, or stand for one.
const SECOND: f64 = 1e9;

/// The cost of one call of a tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// Which.
    pub tool: String,
    /// By itself, or by the shell.
    pub form: String,
    /// How many calls were in flight.
    pub in_flight: u32,
    /// How it was started.
    pub method: String,
    /// How many samples were taken, of a few calls each.
    pub n: u64,
    /// A tenth of the samples are not above this.
    pub p10: u64,
    /// The median.
    pub p50: u64,
    /// Nine tenths of the samples are not above this.
    pub p90: u64,
}

/// All tools one after the other, started by one method.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Mix {
    in_flight: u32,
    method: &'static str,
    /// Per second, or per 10⁹ instructions.
    calls: f64,
    /// How many times as many calls the crate makes.
    ratio: Option<f64>,
}

/// The outcome of one boot.
#[derive(Clone, Debug)]
pub struct Report {
    setup: Setup,
    processors: u32,
    machine: Machine,
    tools: Vec<Tool>,
}

impl Report {
    /// Puts together what guest-bench has printed.
    pub fn new(setup: Setup, processors: u32, lines: impl IntoIterator<Item = Line>) -> Result<Self> {
        let mut machine = None;
        let mut tools = Vec::new();
        for line in lines {
            match line {
                Line::Tool(tool) => tools.push(tool),
                Line::Machine(found) => machine = Some(found),
                _ => {}
            }
        }
        let Some(machine) = machine else { bail!("guest-bench ended before its last line") };
        ensure!(!tools.is_empty(), "guest-bench has measured no tool");
        Ok(Self { setup, processors, machine, tools })
    }

    /// The medians of one method with so many calls in flight, in the order of the tools.
    fn medians(&self, in_flight: u32, method: &str) -> impl Iterator<Item = u64> {
        let wanted = move |tool: &&Tool| tool.in_flight == in_flight && tool.method == method;
        self.tools.iter().filter(wanted).map(|tool| tool.p50)
    }

    fn in_flight(&self) -> Vec<u32> {
        let mut numbers: Vec<u32> = self.tools.iter().map(|tool| tool.in_flight).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// What each method comes to when all tools are called equally often.
    fn mix(&self, in_flight: u32) -> Vec<Mix> {
        let calls = |method: &str| {
            let (count, sum) = self.medians(in_flight, method).fold((0, 0), |(count, sum), p50| (count + 1, sum + p50));
            (count > 0).then(|| f64::from(count) * SECOND / sum.max(1) as f64)
        };
        let ours = calls(SPAWN_TEMPLATE);
        let all = METHODS.into_iter().filter_map(|method| Some((method, calls(method)?)));
        all.map(|(method, calls)| Mix { in_flight, method, calls, ratio: ours.map(|ours| ours / calls) }).collect()
    }

    /// The results for programs.
    pub fn json(&self) -> Result<String> {
        #[derive(Serialize)]
        struct Document<'a> {
            kernel: &'a str,
            accel: &'a str,
            processors: u32,
            unit: Unit,
            /// In calls per 10⁹ of the unit.
            mix: Vec<Mix>,
            results: &'a [Tool],
        }
        let document = Document {
            kernel: &self.machine.kernel,
            accel: self.setup.accel,
            processors: self.processors,
            unit: self.setup.unit,
            mix: self.in_flight().into_iter().flat_map(|in_flight| self.mix(in_flight)).collect(),
            results: &self.tools,
        };
        let mut text = serde_json::to_string_pretty(&document)?;
        text.push('\n');
        Ok(text)
    }

    /// The results for people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let second = match self.setup.unit {
            Unit::Instructions => "calls per 10⁹ guest instructions",
            Unit::Ns => "calls per second",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "Short tools from one runtime: a call starts one, reads its output and reaps it");
        let _ = writeln!(text, "  kernel   {}", self.machine.kernel);
        let _ = writeln!(text, "  machine  {}", self.setup.described(self.processors, &self.machine));
        let _ = writeln!(text, "  cells    {} per call, median of samples of 4 calls", self.setup.unit.thousand());
        let _ = writeln!(
            text,
            "  1.05x    costs 1.05 times what the same tool costs by {SPAWN_TEMPLATE}, the crate's Command"
        );
        let _ = writeln!(text, "  all      {second}, every row called equally often");
        if self.setup.unit == Unit::Instructions {
            let _ = writeln!(
                text,
                "           on one processor: calls in flight take turns, and what is counted is their work together"
            );
        }
        for in_flight in self.in_flight() {
            self.write_block(&mut text, in_flight, second);
        }
        text
    }

    fn write_block(&self, text: &mut String, in_flight: u32, second: &str) {
        let row = |text: &mut String, name: &str, cells: &mut dyn Iterator<Item = String>| {
            let _ = writeln!(text, "{name:<17}{}", cells.map(|cell| format!(" {cell:>18}")).collect::<String>());
        };
        let _ = writeln!(text, "\n{in_flight} in flight");
        let mix = self.mix(in_flight);
        row(text, "", &mut mix.iter().map(|mix| mix.method.to_owned()));
        let block = || self.tools.iter().filter(|tool| tool.in_flight == in_flight);
        for first in block().filter(|tool| tool.method == METHODS[0]) {
            let sample = |method: &str| {
                block()
                    .find(|tool| (&tool.tool, &tool.form, tool.method.as_str()) == (&first.tool, &first.form, method))
            };
            let ours = sample(SPAWN_TEMPLATE).map(|tool| tool.p50);
            let cell = |mix: &Mix| {
                let Some(p50) = sample(mix.method).map(|tool| tool.p50) else { return "-".to_owned() };
                cell(
                    thousands(p50),
                    ours.filter(|_| mix.method != SPAWN_TEMPLATE).map(|ours| p50 as f64 / ours.max(1) as f64),
                )
            };
            let name =
                if first.form == "direct" { first.tool.clone() } else { format!("{} {}", first.form, first.tool) };
            row(text, &name, &mut mix.iter().map(cell));
        }
        let all = |mix: &Mix| cell(format!("{:.1}", mix.calls), mix.ratio.filter(|_| mix.method != SPAWN_TEMPLATE));
        row(text, "all", &mut mix.iter().map(all));
        for mix in mix.iter().filter(|mix| mix.method != SPAWN_TEMPLATE) {
            if let Some(ratio) = mix.ratio {
                let _ =
                    writeln!(text, "{SPAWN_TEMPLATE}: {:+.1} % {second} against {}", (ratio - 1.0) * 100.0, mix.method);
            }
        }
    }
}

/// A figure, and how many times another it is.
fn cell(figure: String, ratio: Option<f64>) -> String {
    ratio.map_or(figure.clone(), |ratio| format!("{figure} {ratio:5.2}x"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(name: &str, form: &str, in_flight: u32, method: &str, p50: u64) -> Line {
        let tool = Tool {
            tool: name.into(),
            form: form.into(),
            in_flight,
            method: method.into(),
            n: 9,
            p10: p50 - 1,
            p50,
            p90: p50 + 1,
        };
        Line::Tool(tool)
    }

    fn report(tools: Vec<Line>) -> Result<Report> {
        let machine = Machine { kernel: "7.3.4".into(), cpu: "QEMU".into(), cpuid_ns: 1, clocksource: "tsc".into() };
        Report::new(Setup::new(Unit::Instructions), 1, tools.into_iter().chain([Line::Machine(machine)]))
    }

    fn two_tools() -> Report {
        let mut tools = Vec::new();
        for in_flight in [1, 4] {
            for (method, p50) in [("std", 1_200_000), ("posix_spawn", 1_100_000), (SPAWN_TEMPLATE, 1_000_000)] {
                tools.push(tool("cat", "direct", in_flight, method, p50));
                tools.push(tool("cat", "sh -c", in_flight, method, p50 + 3_000_000));
            }
        }
        report(tools).unwrap()
    }

    #[test]
    fn lines_are_read() {
        let line = r#"{"form":"direct","in_flight":4,"method":"std","n":9,"p10":9,"p50":10,"p90":11,"tool":"cat","type":"tool"}"#;
        assert_eq!(Line::parse(line).unwrap(), tool("cat", "direct", 4, "std", 10));
        assert!(report(vec![]).is_err());
    }

    #[test]
    fn the_mix_is_calls_of_all_tools() {
        let mix = two_tools().mix(4);
        assert_eq!(mix.len(), 3);
        assert_eq!((mix[0].method, mix[2].method), ("std", SPAWN_TEMPLATE));
        // Two calls take 5.0 and 5.4 million.
        assert!((mix[2].calls - 400.0).abs() < 1e-6 && mix[2].ratio == Some(1.0), "{mix:?}");
        assert!((mix[0].ratio.unwrap() - 1.08).abs() < 1e-6, "{mix:?}");
    }

    #[test]
    fn the_table_shows_costs_and_ratios() {
        let table = two_tools().table();
        for expected in [
            "4 in flight",
            "1200.0  1.20x",
            "sh -c cat",
            "400.0",
            "370.4  1.08x",
            "+8.0 % calls per 10⁹",
            "one processor",
        ] {
            assert!(table.contains(expected), "{expected} is not in\n{table}");
        }
        assert!(table.lines().all(|line| line.chars().count() <= 120), "{table}");
    }

    #[test]
    fn the_json_has_both() {
        let value: serde_json::Value = serde_json::from_str(&two_tools().json().unwrap()).unwrap();
        assert_eq!(value["unit"], "instructions");
        assert_eq!(value["mix"].as_array().unwrap().len(), 6);
        assert_eq!(value["results"][0]["p50"], 1_200_000);
    }
}
