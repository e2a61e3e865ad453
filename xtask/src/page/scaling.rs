//! What several callers come to.

use super::text::escaped;
use super::{headings, row, with_ratio};
use crate::bench::document::Document;
use crate::bench::scaling::{Block, METHODS, callers_named};

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
            block.cell(at, method).map_or("–".into(), |cell| with_ratio(&cell.figure, cell.ratio))
        });
        row("", &format!("{child}, {}", callers_named(callers)), cells)
    });
    format!(
        "<table>\n<caption>Median in {}; in grey {}. <code>{}</code></caption>\n{}<tbody>\n{}</tbody></table>\n",
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
        let expected = "<th scope=\"row\">libc-free, 2 callers</th><td>4000</td><td>–</td>\
                        <td>8000 <span class=\"ratio\">2.00×</span></td>";
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("spawns per second") && text.contains("tcg,thread=multi"), "{text}");
    }
}
