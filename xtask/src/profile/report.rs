//! The profile as a whole, and as tables and JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::groups::group;
use super::raw::Raw;
use super::symbols::Symbols;
use crate::page::text::thousands;

/// How far a page of the program that starts others may lie from the mark in it. Other programs' addresses are random.
const PROGRAM: u64 = 4 << 20;

/// Where user space is counted: the program that starts others, also while a child of it has not executed another.
const USER_CALLER: &str = "(user space: the caller's program)";
/// The program that is started, with its loader and libraries.
const USER_CHILD: &str = "(user space: the child's program)";

/// What was profiled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The kernel's release.
    pub kernel: String,
    /// How the child is started.
    pub method: String,
    /// The child.
    pub child: String,
    /// What starts it.
    pub parent: String,
}

/// The instructions of one function, per spawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Its own.
    pub own: f64,
    /// With those of what it calls.
    pub whole: f64,
}

/// The instructions between the call and the reaped child, per spawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// What was profiled.
    pub subject: Subject,
    /// How many spawns it is the mean of.
    pub samples: u64,
    /// All instructions.
    pub total: f64,
    /// The same by the guest's clock, as the benchmark measures it: the mean without the lowest and highest tenth.
    pub clock: u64,
    /// By kind of work.
    pub groups: BTreeMap<String, f64>,
    /// By function.
    pub functions: BTreeMap<String, Cost>,
    /// By call path: functions joined by `;`, outermost first.
    pub stacks: BTreeMap<String, f64>,
}

impl Profile {
    /// Puts names to what the plugin counted.
    pub fn new(subject: Subject, raw: &Raw, symbols: &Symbols, clock: u64) -> Self {
        let samples = raw.samples as f64;
        let mut profile = Self::empty(subject, raw.samples, clock);
        let mut counts: BTreeMap<(usize, &str), u64> = BTreeMap::new();
        for &(call, block, count) in &raw.counts {
            let own = match block >> 63 {
                1 => symbols.function(block),
                _ if block.abs_diff(raw.mark) < PROGRAM => USER_CALLER,
                _ => USER_CHILD,
            };
            *counts.entry((call, own)).or_default() += count;
        }
        for ((call, own), count) in counts {
            // A return address may be the first one of the next function.
            let path = raw.path(call);
            let mut path: Vec<&str> = path.into_iter().map(|site| symbols.function(site - 1)).collect();
            path.push(own);
            profile.add(&path, count as f64 / samples);
        }
        profile.sum_groups();
        profile
    }

    fn empty(subject: Subject, samples: u64, clock: u64) -> Self {
        let (groups, functions, stacks) = Default::default();
        Self { subject, samples, total: 0.0, clock, groups, functions, stacks }
    }

    fn add(&mut self, path: &[&str], count: f64) {
        let Some(own) = path.last() else { return };
        self.total += count;
        self.functions.entry((*own).to_owned()).or_default().own += count;
        for function in BTreeSet::from_iter(path) {
            self.functions.entry((*function).to_owned()).or_default().whole += count;
        }
        *self.stacks.entry(path.join(";")).or_default() += count;
    }

    fn sum_groups(&mut self) {
        for (function, cost) in &self.functions {
            *self.groups.entry(group(function).to_owned()).or_default() += cost.own;
        }
    }

    /// How far the plugin's count is from the clock's, in per cent.
    pub fn deviation(&self) -> f64 {
        (self.total / self.clock as f64 - 1.0) * 100.0
    }

    /// What was profiled, in a line.
    pub fn title(&self) -> String {
        let Subject { kernel, method, child, parent } = &self.subject;
        format!("{method}, child {child}, {parent} parent, Linux {kernel}, mean of {} spawns", self.samples)
    }

    /// The profile for people, with this many functions, ordered by what they cost with or without what they call.
    pub fn table(&self, top: usize, inclusive: bool) -> String {
        let mut text = self.title() + "\n";
        let _ = writeln!(
            text,
            "{} instructions per spawn; by the guest's clock {} ({:+.1} %)",
            thousands(self.total),
            thousands(self.clock as f64),
            self.deviation()
        );
        let share = |count: f64| 100.0 * count / self.total;
        let _ = writeln!(text, "\n{:>9}  {:>6}  by kind of work", "", "share");
        for (name, count) in sorted(&self.groups, |count| *count) {
            let _ = writeln!(text, "{:>9}  {:>5.1}%  {name}", thousands(*count), share(*count));
        }
        let functions = sorted(&self.functions, |cost| if inclusive { cost.whole } else { cost.own });
        let shown = top.min(functions.len());
        let _ = writeln!(
            text,
            "\n{:>9}  {:>6}  {:>12}  by function ({shown} of {})",
            "own",
            "share",
            "with callees",
            functions.len()
        );
        for (name, cost) in functions.into_iter().take(top) {
            let (own, whole) = (thousands(cost.own), thousands(cost.whole));
            let _ = writeln!(text, "{own:>9}  {:>5.1}%  {whole:>12}  {name}  [{}]", share(cost.own), group(name));
        }
        text
    }

    /// Which functions call `function`, and what it costs on behalf of each, with what it calls.
    pub fn callers(&self, function: &str) -> String {
        let mut callers: BTreeMap<String, Cost> = BTreeMap::new();
        for (path, count) in &self.stacks {
            let path: Vec<&str> = path.split(';').collect();
            // The outermost, or recursion would be counted twice.
            let Some(at) = path.iter().position(|name| *name == function) else { continue };
            let caller = at.checked_sub(1).map_or("(entry)", |before| path[before]);
            let cost = callers.entry(caller.to_owned()).or_default();
            cost.whole += count;
            if at + 1 == path.len() {
                cost.own += count;
            }
        }
        let mut text = format!("\n{:>9}  {:>12}  callers of {function}\n", "own", "with callees");
        for (caller, cost) in sorted(&callers, |cost| cost.whole) {
            let _ = writeln!(text, "{:>9}  {:>12}  {caller}", thousands(cost.own), thousands(cost.whole));
        }
        text
    }

    /// The profile for programs.
    pub fn json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

/// The most expensive first.
fn sorted<T>(map: &BTreeMap<String, T>, cost: impl Fn(&T) -> f64) -> Vec<(&String, &T)> {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_by(|a, b| cost(b.1).total_cmp(&cost(a.1)));
    entries
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A profile of these call paths.
    pub fn profile(stacks: &[(&str, f64)]) -> Profile {
        let name = |text: &str| text.to_owned();
        let subject = Subject { kernel: name("7.3"), method: name("m"), child: name("c"), parent: name("p") };
        let mut profile = Profile::empty(subject, 1, 100);
        for (path, count) in stacks {
            profile.add(&path.split(';').collect::<Vec<_>>(), *count);
        }
        profile
    }

    #[test]
    fn counts_are_divided_and_named() {
        let kernel = 0xffff_ffff_8100_0000_u64;
        let symbols = Symbols::parse(["ffffffff81000000 T outer", "ffffffff81000100 T inner"]);
        let raw = format!(
            "samples 2\nmark 400123\ncall 0 {:x}\ncount 0 {kernel:x} 20\ncount 1 {:x} 60\ncount 0 401000 6\n\
             count 0 7f0000000000 4\n",
            kernel + 0x100,
            kernel + 0x120
        );
        let profile = Profile::new(profile(&[]).subject, &Raw::parse(&raw).unwrap(), &symbols, 45);
        assert_eq!(profile.total, 45.0);
        assert_eq!(profile.deviation(), 0.0);
        let cost = |own, whole| Cost { own, whole };
        // The call is the last instruction of `outer`, so the return address is in `inner` already.
        assert_eq!(profile.functions["outer"], cost(10.0, 40.0));
        assert_eq!(profile.functions["inner"], cost(30.0, 30.0));
        assert_eq!(profile.functions[USER_CALLER], cost(3.0, 3.0));
        assert_eq!(profile.functions[USER_CHILD], cost(2.0, 2.0));
        assert_eq!(profile.groups["user space"], 5.0);
        assert_eq!(profile.stacks["outer;inner"], 30.0);
    }

    #[test]
    fn recursion_is_counted_once() {
        let profile = profile(&[("a;b;a", 10.0), ("a", 1.0)]);
        assert_eq!(profile.functions["a"], Cost { own: 11.0, whole: 11.0 });
        assert_eq!(profile.functions["b"], Cost { own: 0.0, whole: 10.0 });
    }

    #[test]
    fn callers_are_told() {
        let text = profile(&[("a;f;g", 10.0), ("a;f", 5.0), ("b;f", 1000.0)]).callers("f");
        let lines: Vec<Vec<&str>> = text.lines().skip(2).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines, [vec!["1", "000", "1", "000", "b"], vec!["5", "15", "a"]]);
    }
}
