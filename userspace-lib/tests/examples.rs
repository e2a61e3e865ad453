//! The examples run and do what they say.

use std::process::{Command, Output};

fn example(name: &str, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["run", "--quiet", "--example", name, "--"]);
    command.args(args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn spawn() {
    let text = stdout(&example("spawn", &[]));
    assert_eq!(text.matches("hello from a template\n").count(), 2, "{text}");
    assert_eq!(text.matches("ended: exit status: 0").count(), 2, "{text}");
}

#[test]
fn parallel() {
    let text = stdout(&example("parallel", &["3"]));
    for line in [
        "echo one: exit status: 0: one",
        "sh -c echo from the shell; exit 3: exit status: 3: from the shell",
        "no-such-tool: exec: No such file or directory (os error 2)",
    ] {
        assert!(text.lines().any(|found| found == line), "{line:?} is missing:\n{text}");
    }
    // echo, head, wc, stat, sh and grep.
    let kept = if spawn_template::is_supported() { 6 } else { 0 };
    assert!(text.ends_with(&format!("{kept} templates\n")), "{text}");
}

#[test]
fn pipeline() {
    let shell = Command::new("sh").args(["-c", "cat /etc/passwd | cut -d: -f7 | sort | uniq -c"]).output().unwrap();
    assert_eq!(stdout(&example("pipeline", &[])), stdout(&shell));
}

#[test]
fn timeout() {
    let code = |args: &[&str]| example("timeout", args).status.code();
    assert_eq!(code(&["60000", "sh", "-c", "exit 3"]), Some(3));
    assert_eq!(code(&["60000", "sh", "-c", "kill -9 $$"]), Some(128 + 9));
    // The sleep is ended with the shell that waits for it: otherwise it would keep the output open.
    assert_eq!(code(&["100", "sh", "-c", "sleep 1000; true"]), Some(124));
    assert_eq!(code(&["x"]), Some(1));
}
