//! Programs in C that know the header only: the example of the man page `spawn_template_spawn(2)`, which xtask compiles
//! as it is shown there, and one written for the first RFC.

use std::process::{Command, Output};

use crate::harness::Outcome;
use crate::template::child;
use crate::{ensure, same, tests};

tests!("manual": example_starts_programs, example_names_the_failed_action, example_without_such_a_program, program_of_the_first_rfc);

/// Runs the example: status, output, errors.
fn example(arguments: &[&str]) -> Outcome<(Option<i32>, String, String)> {
    let Output { status, stdout, stderr } = Command::new(child("man-example")).args(arguments).output()?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((status.code(), text(stdout), text(stderr)))
}

fn example_starts_programs() -> Outcome {
    let (code, output, errors) = example(&["/usr", "/usr/bin/realpath", "bin", "share/doc", "missing/file"])?;
    // Process ids are no part of the comparison.
    let lines: Vec<_> = output
        .lines()
        .map(|line| match line.strip_prefix("process ").and_then(|line| line.split_once(' ')) {
            Some((_, how)) => how,
            None => line,
        })
        .collect();
    let wanted = ["/usr/bin", "exited with status 0", "/usr/share/doc", "exited with status 0", "exited with status 1"];
    same!(lines, wanted, "output");
    same!(code, Some(0), "status, having said {errors:?}");
    Ok(())
}

fn example_names_the_failed_action() -> Outcome {
    let (code, output, errors) = example(&["/missing", "/usr/bin/realpath", "bin"])?;
    same!((code, output.as_str()), (Some(1), ""), "status and output");
    ensure!(errors.ends_with("man-example: action 1: No such file or directory\n"), "it said {errors:?}");
    Ok(())
}

fn example_without_such_a_program() -> Outcome {
    let (code, output, errors) = example(&["/", "/missing", "bin"])?;
    same!((code, output.as_str()), (Some(1), ""), "status and output");
    ensure!(errors.ends_with("man-example: /missing: No such file or directory\n"), "it said {errors:?}");
    Ok(())
}

fn program_of_the_first_rfc() -> Outcome {
    let output = Command::new(child("rfc")).output()?;
    same!(output.status.code(), Some(0), "the line that failed, or what the shell says; errors {:?}", output.stderr);
    Ok(())
}
