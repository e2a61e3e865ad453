//! The attacks on a program that gets a label of Smack's; in a file of its own, because they have a boot of their own.

use super::by_another_process;
use super::program::Program;
use crate::harness::Outcome;
use crate::tests;

tests!("smack_attack": program_with_a_label [180]);

fn program_with_a_label() -> Outcome {
    crate::smack::needs_smack()?;
    by_another_process(Program::Label)
}
