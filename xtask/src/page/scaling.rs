//! What several callers come to.

use super::text::escaped;
use super::{headings, row, with_ratio};
use crate::bench::document::Document;
use crate::bench::scaling::{Block, Cell, METHODS, callers_named};

/// The section, empty without results.
pub fn section(document: &Document) -> String {
    if document.scaling.is_empty() {
        return String::new();
    }
    let tables: String = document.scaling.iter().map(table).collect();
    format!(
        "<section id=\"scaling\">\n<h2>Several callers at a time</h2>\n\
         <p>Threads of one process that start and reap programs at the same time: with posix_spawn, all from one template, \
         or each from a template of its own of the same program. Address-space layouts are not random here, because under \
         emulation code that moves is translated again, which would hide all else. Emulated wall time shows how calls \
         keep each other waiting, not what they take on a real processor, and depends on what else the machine does. \
         By themselves: \
         <code>cargo xtask bench --scaling</code>.</p>\n{tables}</section>\n"
    )
}

fn table(block: &Block) -> String {
    let columns = ["child and callers"].into_iter().chain(METHODS.map(|(_, name)| name));
    let rows = block.rows().into_iter().map(|at @ (child, callers)| {
        let cells = METHODS.iter().map(|(method, _)| {
            let Some(Cell { figure, spread, ratio }) = block.cell(at, method) else { return "–".to_owned() };
            format!("{}<br><small>{}</small>", with_ratio(&figure, ratio), escaped(&spread))
        });
        row("", &format!("{child}, {}", callers_named(callers)), cells)
    });
    format!(
        "<table>\n<caption>Median in {}, below it 10th - 90th percentile; in grey {}. <code>{}</code></caption>\n{}<tbody>\n{}</tbody></table>\n",
        block.unit(),
        block.ratio(),
        escaped(&block.machine),
        headings(columns),
        rows.collect::<String>(),
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::document;
    use super::*;

    #[test]
    fn ways_are_compared_with_posix_spawn() {
        let text = section(&document());
        let expected = "<th scope=\"row\">libc-free, 2 callers</th><td>4000<br><small>3984 - 4016</small></td><td>–</td>\
                        <td>8000 <span class=\"ratio\">2.00×</span><br><small>7937 - 8065</small></td>";
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("spawns per second") && text.contains("tcg,thread=multi"), "{text}");
    }
}
