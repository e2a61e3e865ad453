//! Address space randomization: each child of one template gets addresses of its own.

use std::collections::BTreeSet;

use crate::harness::{Checks, Outcome};
use crate::template::Template;
use crate::{same, tests};

tests!("aslr": dynamic_program, static_program, random_bytes);

/// How many children are compared. The break has the least entropy, 18 bits: two agree by chance once in 17 000 runs.
const CHILDREN: usize = 6;

/// Starts `program` some times and wants all values of each of these keys to differ.
fn all_differ(program: &str, keys: &[&str]) -> Outcome {
    let template = Template::child(program)?;
    let mut shows = Vec::new();
    for _ in 0..CHILDREN {
        shows.push(template.spawn().show()?);
    }
    let mut checks = Checks::default();
    for key in keys {
        let values: BTreeSet<&str> = shows.iter().map(|show| show.get(key)).collect();
        if values.len() < CHILDREN || values.contains("") {
            checks.fail(format!("{program}: {key} of {CHILDREN} children: {values:?}"));
        }
    }
    checks.finish()
}

fn dynamic_program() -> Outcome {
    let keys = ["stack", "execfn", "exe", "interpreter", "vdso", "brk"].map(|key| format!("own.address.{key}"));
    all_differ("report", &keys.each_ref().map(String::as_str))
}

/// An ET_EXEC lies where it was linked; its stack, break and vDSO do not.
fn static_program() -> Outcome {
    let keys = ["stack", "execfn", "vdso", "brk"].map(|key| format!("own.address.{key}"));
    all_differ("report-static", &keys.each_ref().map(String::as_str))?;
    let template = Template::child("report-static")?;
    let exe = || -> Outcome<String> { Ok(template.spawn().show()?.get("own.address.exe").to_owned()) };
    same!(exe()?, exe()?, "where an ET_EXEC lies");
    Ok(())
}

/// AT_RANDOM's bytes.
fn random_bytes() -> Outcome {
    all_differ("report", &["own.random"])
}
