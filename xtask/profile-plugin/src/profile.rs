//! Counts instructions by where they are and by the calls that led there.
//!
//! The stack pointer cannot be read, but each call tells where it writes its return address, and each return where it
//! reads one. Whatever a stack held at or below that address is gone, so the calls that are still open are known at any
//! time, also after a switch to another task: its next return reads its own stack. Stacks are told apart by address.

use std::collections::HashMap;
use std::io::{self, Write};

/// Stacks of the kernel lie at multiples of their size, 16 KiB.
const STACK_SHIFT: u32 = 14;

/// User space is counted by page only: every child has its own addresses.
const PAGE: u64 = 4096;

/// No call: where the kernel was entered, and user space.
const ROOT: u32 = 0;

/// An open call: where its return address lies, and its node.
type Open = (u64, u32);

/// The counts.
#[derive(Default)]
pub struct Profile {
    samples: u64,
    /// Where the mark lies, which tells the program that starts others from those others.
    mark: u64,
    /// The calls that led somewhere: the node of the call before, and the return address. Node N is at N - 1.
    nodes: Vec<(u32, u64)>,
    children: HashMap<(u32, u64), u32>,
    stacks: HashMap<u64, Vec<Open>>,
    counts: HashMap<(u32, u64), u64>,
    /// Where the instructions are executed that are still to be counted, and how many there were before them.
    node: u32,
    block: u64,
    before: u64,
}

impl Profile {
    /// A sample begins; `executed` is how many instructions were executed so far, here and below.
    pub fn begin(&mut self, executed: u64, mark: u64) {
        self.mark = mark;
        self.samples += 1;
        (self.node, self.block, self.before) = (ROOT, place(mark), executed);
    }

    /// A sample ends.
    pub fn end(&mut self, executed: u64) {
        self.count(executed);
    }

    /// The block at `address` is entered.
    pub fn enter(&mut self, executed: u64, address: u64) {
        self.count(executed);
        if is_kernel(address) != is_kernel(self.block) {
            self.node = ROOT;
        }
        self.block = place(address);
    }

    /// A call writes the return address `site` to the stack at `slot`.
    pub fn call(&mut self, executed: u64, site: u64, slot: u64) {
        self.count(executed);
        let stack = self.stacks.entry(slot >> STACK_SHIFT).or_default();
        let parent = open_above(stack, slot);
        let nodes = &mut self.nodes;
        self.node = *self.children.entry((parent, site)).or_insert_with(|| {
            nodes.push((parent, site));
            nodes.len() as u32
        });
        stack.push((slot, self.node));
    }

    /// A return reads its address from the stack at `slot`.
    pub fn ret(&mut self, executed: u64, slot: u64) {
        self.count(executed);
        self.node = self.stacks.get_mut(&(slot >> STACK_SHIFT)).map_or(ROOT, |stack| open_above(stack, slot));
    }

    fn count(&mut self, executed: u64) {
        let count = executed - std::mem::replace(&mut self.before, executed);
        if count > 0 {
            *self.counts.entry((self.node, self.block)).or_default() += count;
        }
    }

    /// Writes everything as lines of text.
    pub fn write(&self, mut out: impl Write) -> io::Result<()> {
        writeln!(out, "samples {}\nmark {:x}", self.samples, self.mark)?;
        for (parent, site) in &self.nodes {
            writeln!(out, "call {parent} {site:x}")?;
        }
        for ((node, block), count) in &self.counts {
            writeln!(out, "count {node} {block:x} {count}")?;
        }
        out.flush()
    }
}

/// Drops the calls that are over when the stack is used at `slot`, and returns the last of the others.
fn open_above(stack: &mut Vec<Open>, slot: u64) -> u32 {
    while stack.last().is_some_and(|open| open.0 <= slot) {
        stack.pop();
    }
    stack.last().map_or(ROOT, |open| open.1)
}

/// Whether an address is the kernel's.
pub fn is_kernel(address: u64) -> bool {
    address >> 63 == 1
}

fn place(address: u64) -> u64 {
    if is_kernel(address) { address } else { address & !(PAGE - 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u64 = 0xffff_ffff_8100_0000;
    const B: u64 = 0xffff_ffff_8200_0000;
    const C: u64 = 0xffff_ffff_8300_0000;
    const STACK: u64 = 0xffff_c900_0000_4000;
    const OTHER: u64 = 0xffff_c900_0000_8000;

    fn lines(profile: &Profile) -> Vec<String> {
        let mut text = Vec::new();
        profile.write(&mut text).unwrap();
        let mut lines: Vec<_> = String::from_utf8(text).unwrap().lines().skip(2).map(str::to_owned).collect();
        lines.sort();
        lines
    }

    #[test]
    fn instructions_belong_to_the_open_calls() {
        let mut profile = Profile::default();
        profile.begin(1000, 0x40_1234);
        profile.enter(1010, A);
        profile.call(1013, A + 5, STACK + 0x3000);
        profile.enter(1013, B);
        profile.ret(1020, STACK + 0x3000);
        profile.enter(1020, A + 5);
        profile.enter(1024, 0x40_1300);
        profile.end(1030);
        assert_eq!(
            lines(&profile),
            [
                format!("call 0 {:x}", A + 5),
                "count 0 401000 16".to_owned(),
                format!("count 0 {A:x} 3"),
                format!("count 0 {:x} 4", A + 5),
                format!("count 1 {B:x} 7"),
            ]
        );
    }

    #[test]
    fn a_switch_of_tasks_is_followed() {
        let mut profile = Profile::default();
        profile.begin(0, 0);
        profile.enter(0, A);
        profile.call(1, A, STACK + 0x3000);
        profile.enter(1, B);
        profile.call(2, B, STACK + 0x2ff0);
        // Another task goes on ...
        profile.ret(3, OTHER + 0x3000);
        profile.enter(3, C);
        profile.call(4, C, OTHER + 0x3000);
        // ... and the first again, one call further out.
        profile.ret(6, STACK + 0x2ff0);
        profile.enter(6, B);
        profile.end(16);
        assert!(lines(&profile).contains(&format!("count 1 {B:x} 11")), "{:?}", lines(&profile));
    }

    #[test]
    fn what_a_dead_task_left_on_its_stack_is_forgotten() {
        let mut profile = Profile::default();
        profile.begin(0, 0);
        profile.enter(0, A);
        profile.call(0, A, STACK + 0x3000);
        profile.call(0, B, STACK + 0x2000);
        profile.call(0, C, STACK + 0x3800);
        assert_eq!(profile.nodes.last(), Some(&(ROOT, C)));
    }
}
