//! Records as one page of HTML without scripts or external files.
//!
//! Order:    the verdict, the pictures, then the tables.
//! Promise:  text of a record is text on the page and never markup.

use std::collections::BTreeMap;

use crate::report::charts;
use crate::report::charts::Axis;
use crate::report::charts::Curve;
use crate::report::charts::distribution;
use crate::report::charts::over_time;
use crate::report::charts::throughput;
use crate::report::histogram::Hdr;
use crate::report::histogram::Stage;
use crate::report::number::figure;
use crate::report::number::grouped;
use crate::report::record::Record;
use crate::report::record::Verdict;
use crate::report::rows;
use crate::report::rows::Cell;

/// Gives black ink and almost black grids of charts their colours.
const STYLE: &str = include_str!("page.css");
/// The headline of a run is the first of these stages that it has.
const MAIN_STAGES: [&str; 3] = ["end to end", "message", "MAIL to dot"];

/// The page of these runs and their names.
pub fn page(names: &[String], records: &[Record]) -> Result<String, String> {
    let drawn = |cause: Box<dyn std::error::Error>| format!("drawing: {cause}");
    let title = escape(&format!("ringpost-load: {}", names.join(", ")));
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
    );
    if records.len() > 1 {
        page += &compared(names, records).map_err(drawn)?;
    }
    for (name, record) in names.iter().zip(records) {
        if records.len() > 1 {
            page += &format!("<h2>{}</h2>\n", escape(name));
        }
        page += &run(record).map_err(drawn)?;
    }
    Ok(page + "</body>\n</html>\n")
}

type Drawn = Result<String, Box<dyn std::error::Error>>;

fn run(record: &Record) -> Drawn {
    let when = record.when.get(..19).unwrap_or(&record.when).replace('T', " ");
    let about = format!("{} {}, {when} UTC, {:.1} s", record.kind, record.run, record.seconds);
    let mut text = format!("<p class=\"soft\">{}</p>\n", escape(&about));
    if let Some(fault) = &record.first_fault {
        text += &format!("<p class=\"fault\">First error: {}</p>\n", escape(fault));
    }
    text += &verdicts(record);
    text += &tiles(record);
    let curves = record.stages.iter().enumerate();
    let curves = curves.map(|(color, stage)| distribution(color, &stage.latencies)).collect();
    let chart = charts::draw(Axis::Percentile, Axis::Milliseconds, curves)?;
    let keys = keys(record.stages.iter().map(|stage| &*stage.name));
    text += &card("Latency by percentile", &(keys + &chart));
    let chart = charts::draw(Axis::Seconds, Axis::PerSecond, vec![throughput(0, record)])?;
    text += &card("Throughput over time", &chart);
    let p50 = over_time(0, record, |all| all.ms(0.5));
    let p99 = over_time(1, record, |all| all.ms(0.99));
    let max = over_time(3, record, Hdr::max_ms);
    let keys = [(0, "p50"), (1, "p99"), (3, "max")].map(|(color, name)| key(color, name)).concat();
    let chart = charts::draw(Axis::Seconds, Axis::Milliseconds, vec![p50, p99, max])?;
    text += &card("Latency over time", &format!("<p>{keys}</p>\n{chart}"));
    text += &card("Latency by stage, in milliseconds", &table(&rows::stage_table(&record.stages)));
    text += "<div class=\"columns\">\n";
    text += &pairs("Machine", &record.machine);
    text += &pairs("Settings", &record.settings);
    let counts = |counts: &BTreeMap<String, u64>| {
        counts.iter().map(|(name, count)| (name.replace('_', " "), grouped(*count))).collect()
    };
    text += &pairs("Counts", &counts(&record.counts));
    text += &pairs("Ledger", &counts(&record.ledger));
    Ok(text + "</div>\n")
}

/// The headline figures.
fn tiles(record: &Record) -> String {
    let mut tiles = vec![(grouped(record.per_second.round() as u64), "per second".to_owned())];
    let main = MAIN_STAGES.iter().find_map(|name| {
        record.stages.iter().find(|stage| stage.name == *name && !stage.latencies.0.is_empty())
    });
    if let Some(Stage { name, latencies }) = main {
        for (short, at) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
            tiles.push((format!("{} ms", figure(latencies.ms(at))), format!("{name}, {short}")));
        }
    }
    for name in ["accepted", "messages"] {
        tiles.extend(record.counts.get(name).map(|count| (grouped(*count), name.to_owned())));
    }
    for name in ["lost", "duplicated", "alien", "corrupted", "bounced"] {
        let count = record.ledger.get(name).or_else(|| record.counts.get(name));
        tiles.extend(count.map(|count| (grouped(*count), name.to_owned())));
    }
    let tile = |(value, name): &(String, String)| {
        let (value, name) = (escape(value), escape(name));
        format!(
            "<div class=\"tile\"><strong>{value}</strong><span class=\"soft\">{name}</span></div>\n"
        )
    };
    format!("<div class=\"tiles\">\n{}</div>\n", tiles.iter().map(tile).collect::<String>())
}

fn card(title: &str, content: &str) -> String {
    format!("<div class=\"card\">\n<h3>{}</h3>\n{content}</div>\n", escape(title))
}

/// A card of names and values; nothing if there are none.
fn pairs(title: &str, pairs: &BTreeMap<String, String>) -> String {
    let row = |(name, value): (&String, &String)| {
        let (name, value) = (escape(name), escape(value));
        format!("<tr><td>{name}</td><td class=\"text\">{value}</td></tr>\n")
    };
    let rows: String = pairs.iter().map(row).collect();
    if rows.is_empty() { rows } else { card(title, &format!("<table>\n{rows}</table>\n")) }
}

/// The expectations, failures first; nothing if there are none.
fn verdicts(record: &Record) -> String {
    let mut all: Vec<&Verdict> = record.verdicts.iter().collect();
    if all.is_empty() {
        return String::new();
    }
    all.sort_by_key(|verdict| verdict.holds);
    let failed = all.iter().filter(|verdict| !verdict.holds).count();
    let title = match failed {
        0 => format!("Passed: all {} expectations hold", all.len()),
        _ => format!("FAILED: {failed} of {} expectations do not hold", all.len()),
    };
    let row = |verdict: &&Verdict| {
        let (class, word) = if verdict.holds { ("good", "holds") } else { ("bad", "FAILS") };
        let (that, found) = (escape(&verdict.that), escape(&verdict.found));
        format!(
            "<tr><td class=\"{class}\">{word}</td><td class=\"text\">{that}</td>\
             <td class=\"text\">{found}</td></tr>\n"
        )
    };
    let rows: String = all.iter().map(row).collect();
    card(&title, &format!("<table>\n{rows}</table>\n"))
}

/// Several runs: their pictures, then the table of totals.
fn compared(names: &[String], records: &[Record]) -> Drawn {
    let keys = keys(names.iter().map(String::as_str));
    let mut stages = rows::stage_names(records);
    // The main stage comes first; the sort keeps the order of the others.
    let main = MAIN_STAGES.iter().find(|main| stages.iter().any(|name| name == *main));
    stages.sort_by_key(|name| main.is_none_or(|main| name != main));
    let curves: Vec<Curve> =
        records.iter().enumerate().map(|(color, record)| throughput(color, record)).collect();
    let chart = keys.clone() + &charts::draw(Axis::Seconds, Axis::PerSecond, curves)?;
    let mut text = card("Throughput over time", &chart);
    for name in stages {
        let of = |record: &Record| {
            let found = record.stages.iter().find(|other| other.name == *name);
            found.map(|stage| stage.latencies.clone())
        };
        let curves = records.iter().map(of).enumerate();
        let curves = curves.filter_map(|(color, all)| Some(distribution(color, &all?))).collect();
        let chart = charts::draw(Axis::Percentile, Axis::Milliseconds, curves)?;
        let figures = rows::side_by_side(names, &rows::of_stage(name, records));
        let figures = table(&rows::transposed(&figures));
        text += &card(name, &(keys.clone() + &chart + &figures));
    }
    let title = format!("Totals; ratios are relative to {}", names[0]);
    let mut totals = rows::totals(records);
    totals.retain(|row| row.figures.iter().any(|one| *one != Some(0.0)));
    Ok(text + &card(&title, &table(&rows::side_by_side(names, &totals))))
}

/// A table whose first line is its head.
fn table(lines: &[Vec<Cell>]) -> String {
    let mut text = "<table>\n".to_owned();
    for (place, line) in lines.iter().enumerate() {
        let tag = if place == 0 { "th" } else { "td" };
        text += "<tr>";
        for Cell { text: content, is_better } in line {
            let class = match is_better {
                None => "",
                Some(true) => " class=\"good\"",
                Some(false) => " class=\"bad\"",
            };
            text += &format!("<{tag}{class}>{}</{tag}>", escape(content));
        }
        text += "</tr>\n";
    }
    text + "</table>\n"
}

fn keys<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let keys = names.enumerate().map(|(place, name)| key(place, name));
    format!("<p>{}</p>\n", keys.collect::<String>())
}

fn key(color: usize, name: &str) -> String {
    let (color, name) = (charts::color(color), escape(name));
    format!("<span class=\"key\"><i style=\"background:{color}\"></i>{name}</span>")
}

fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c if c.is_control() && c != '\n' && c != '\t' => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::record::tests::record;

    /// Checks that elements are closed in order; returns the names of all elements.
    fn elements(page: &str) -> Vec<&str> {
        let (mut open, mut seen) = (Vec::new(), Vec::new());
        for tag in page.split('<').skip(1) {
            let (tag, text) = tag.split_once('>').expect("a tag ends");
            assert!(!text.contains('>') || open.last() == Some(&"style"), "{tag}>{text}");
            let name = tag.split([' ', '/', '\n']).find(|part| !part.is_empty()).expect("a name");
            if let Some(closed) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(closed));
                continue;
            }
            if !tag.ends_with('/') && !matches!(name, "!DOCTYPE" | "meta") {
                open.push(name);
            }
            seen.push(name);
        }
        assert_eq!(open, [""; 0]);
        seen
    }

    #[test]
    fn a_page_is_complete_and_escapes_all_text() {
        let mut evil = record(1000, 2);
        evil.stages[0].name = "<script>alert('1')</script>".into();
        evil.machine.insert("CPU".into(), "a & b </table>".into());
        evil.kind = "\" onload=\"x".into();
        evil.counts.insert("</td>".into(), 1);
        let (that, found) = ("<i>all</i> arrive".into(), "9 & 1".into());
        evil.verdicts.push(Verdict { holds: false, that, found });
        let names = ["<img src=x>.json".to_owned(), "b.json".to_owned()];
        let page = page(&names, &[evil, record(700, 1)]).expect("it is drawn");
        let seen = elements(&page);
        for forbidden in ["script", "img", "b", "i>", "link", "iframe"] {
            assert!(!seen.contains(&forbidden), "{forbidden}");
        }
        assert_eq!(seen.iter().filter(|name| **name == "svg").count(), 10, "each chart once");
        let own = page.replace("http://www.w3.org/2000/svg", "");
        for reference in ["http", "url(", "@import", "src=x>", "javascript:"] {
            assert!(!own.contains(reference), "{reference}");
        }
        assert!(page.contains("&lt;b&gt;550 &amp; &quot;no&quot;&lt;/b&gt;"));
        let verdict = "FAILS</td><td class=\"text\">&lt;i&gt;all&lt;/i&gt; arrive</td>";
        assert!(page.contains(verdict), "{page}");
    }

    #[test]
    fn the_verdict_comes_first_and_tables_last() {
        let mut run = record(1000, 1);
        let verdict = |holds, that: &str| Verdict { holds, that: that.into(), found: "1".into() };
        run.verdicts = vec![verdict(true, "one thing"), verdict(false, "another thing")];
        let page = page(&["a".to_owned()], &[run]).expect("it is drawn");
        let at = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text}: {page}"));
        let order = ["FAILED: 1 of 2", "another thing", "one thing", "<svg", "Latency by stage"];
        assert!(order.map(at).is_sorted(), "{:?}", order.map(at));
    }
}
