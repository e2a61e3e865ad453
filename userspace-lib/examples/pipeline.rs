//! `cat /etc/passwd | cut -d: -f7 | sort | uniq -c`, without a shell.

use std::process::ExitCode;

use spawn_template::{Child, Command, Error, Stdio};

const STAGES: [&[&str]; 4] = [&["cat", "/etc/passwd"], &["cut", "-d:", "-f7"], &["sort"], &["uniq", "-c"]];

fn main() -> ExitCode {
    match pipeline() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("pipeline: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every stage succeeded.
fn pipeline() -> Result<bool, Error> {
    let mut children: Vec<Child> = Vec::new();
    for (index, stage) in STAGES.iter().enumerate() {
        let [program, args @ ..] = stage else { continue };
        let mut command = Command::new(program);
        command.args(args).kill_on_drop(true);
        // The output of the one before; the pipe goes when the command does, so that it ends when the writer ends.
        if let Some(output) = children.last_mut().and_then(|child| child.stdout.take()) {
            command.stdin(output);
        }
        if index + 1 < STAGES.len() {
            command.stdout(Stdio::piped());
        }
        children.push(command.spawn()?);
    }
    let mut good = true;
    for child in &mut children {
        good &= child.wait()?.success();
    }
    Ok(good)
}
