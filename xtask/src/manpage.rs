//! The man pages of the system calls, and the C program in one of them.

use anyhow::{Result, bail, ensure};

/// The program that a man page shows between the comments `SRC BEGIN` and `SRC END`.
pub fn program(page: &str) -> Result<String> {
    let shown = page.split_once("\n.\\\" SRC BEGIN").and_then(|(_, rest)| rest.split_once("\n.EX\n"));
    let source = shown.and_then(|(_, rest)| rest.split_once("\n.EE\n.\\\" SRC END"));
    let Some((source, _)) = source else { bail!("the man page shows no program") };
    let mut text = String::new();
    for line in source.lines() {
        ensure!(!line.starts_with(['.', '\'']), "the program in the man page has a request: {line}");
        text.push_str(&plain(line)?);
        text.push('\n');
    }
    Ok(text)
}

/// What a line of a man page looks like on paper. Only the escapes that a program needs are known.
fn plain(line: &str) -> Result<String> {
    const ESCAPES: [(&str, &str); 6] =
        [("\\-", "-"), ("\\&", ""), ("\\[rs]", "\\"), ("\\[aq]", "'"), ("\\[ti]", "~"), ("\\[ha]", "^")];

    let mut text = String::new();
    let mut rest = line;
    while let Some(position) = rest.find('\\') {
        let (before, escape) = rest.split_at(position);
        let Some((code, shown)) = ESCAPES.iter().find(|(code, _)| escape.starts_with(code)) else {
            bail!("the program in the man page has an escape that is not known here: {line}");
        };
        text.push_str(before);
        text.push_str(shown);
        rest = &escape[code.len()..];
    }
    text.push_str(rest);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::process::{Command, Output};

    use super::*;
    use crate::cmd::{read_file, which};
    use crate::context::repo_root;

    const PAGES: [&str; 3] = ["man2/spawn_template_create.2", "man2/spawn_template_spawn.2", "man7/spawn_template.7"];

    fn page(name: &str) -> PathBuf {
        repo_root().join("uapi-headers/man").join(name)
    }

    fn output(command: &mut Command) -> Output {
        command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    #[test]
    fn a_program_is_what_the_page_shows() {
        let page = ".SH EXAMPLES\n.\\\" SRC BEGIN (x.c)\n.EX\nint x = \\-1;\n\\&\n\\&.x = \\[aq]\\[rs]n\\[aq]\n.EE\n.\\\" SRC END\n";
        assert_eq!(program(page).unwrap(), "int x = -1;\n\n.x = '\\n'\n");
        assert!(program(&page.replace("\\-1", "\\f1")).is_err());
        assert!(program(&page.replace("\\&.x", ".x")).is_err());
        assert!(program(".SH EXAMPLES\n").is_err());
    }

    /// What the Linux man-pages project does not mind: names are in lower case, and dates are set when it releases.
    #[test]
    fn the_pages_are_well_formed() {
        for (name, arguments) in
            [("mandoc", &["-T", "lint", "-W", "style"][..]), ("groff", &["-t", "-man", "-ww", "-z"])]
        {
            if which(name).is_none() {
                eprintln!("skipped: {name} is not installed");
                continue;
            }
            for page in PAGES.map(page) {
                let output = output(Command::new(name).args(arguments).arg(&page));
                let said = text(&output.stdout) + &text(&output.stderr);
                let bad: Vec<_> = said
                    .lines()
                    .filter(|line| !line.contains("STYLE: lower case character in document title: TH"))
                    .filter(|line| !line.contains("WARNING: cannot parse date, using it verbatim: TH (date)"))
                    .collect();
                assert!(bad.is_empty(), "{name} on {}:\n{}", page.display(), bad.join("\n"));
            }
        }
    }

    #[test]
    fn the_pages_break_no_line_that_is_shown() {
        for page in PAGES.map(page) {
            for (number, line) in (1..).zip(read_file(&page).unwrap().lines()) {
                let place = format!("{}:{number}", page.display());
                assert!(line.chars().count() <= 80, "{place}: more than 80 columns");
                assert!(line.trim_end() == line && !line.contains('\t') || in_table(line), "{place}: white space");
            }
        }
    }

    fn in_table(line: &str) -> bool {
        line.split('\t').count() == 2
    }

    /// Every name of the header is explained by a page.
    #[test]
    fn the_pages_know_the_header() {
        let header = read_file(&repo_root().join("uapi-headers/linux/spawn_template.h")).unwrap();
        let pages = PAGES.map(|name| read_file(&page(name)).unwrap()).concat();
        let known = |name: &str| pages.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == name);
        let words = header.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let names: Vec<_> = words.filter(|word| word.starts_with("SPAWN_TEMPLATE_") && !word.ends_with('_')).collect();
        assert!(names.len() > 30);
        let missing: Vec<_> = names.into_iter().filter(|name| !known(name)).collect();
        assert!(missing.is_empty(), "no man page explains {missing:?}");
    }

    /// The guest runs it: the suite's tests `manual::…`.
    #[test]
    fn the_program_compiles_as_shown() {
        let folder = std::env::temp_dir().join(format!("xtask-manpage-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (source, compiled) = (folder.join("spawn_template.c"), folder.join("spawn_template"));
        std::fs::write(&source, program(&read_file(&page(PAGES[1])).unwrap()).unwrap()).unwrap();
        for standard in ["c11", "gnu17"] {
            let mut cc = Command::new("cc");
            cc.args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-I"]).arg(repo_root().join("uapi-headers"));
            let output = output(cc.arg(format!("-std={standard}")).arg("-o").arg(&compiled).arg(&source));
            assert!(output.status.success(), "-std={standard}: {}", text(&output.stderr));
        }
        let usage = output(&mut Command::new(&compiled));
        assert_eq!(usage.status.code(), Some(1));
        assert!(text(&usage.stderr).starts_with("Usage: "));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn each_page_is_named_by_the_others() {
        for (a, b) in PAGES.iter().flat_map(|a| PAGES.iter().map(move |b| (a, b))).filter(|(a, b)| a != b) {
            let path = Path::new(b);
            let (name, section) = (path.file_stem().unwrap(), path.extension().unwrap());
            let reference = format!(".BR {} ({})", name.display(), section.display());
            let text = read_file(&page(a)).unwrap();
            let see_also = text.split_once(".SH SEE ALSO").unwrap().1;
            assert!(see_also.contains(&reference), "{a} does not refer to {b}");
        }
    }
}
