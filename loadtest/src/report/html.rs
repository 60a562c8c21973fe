//! Records as one page of HTML that needs nothing else: no network, no script.
//!
//! Promise:  whatever stands in a record is text on the page and never markup.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::report::charts;
use crate::report::charts::Curve;
use crate::report::record::Hdr;
use crate::report::record::Interval;
use crate::report::record::QUANTILES;
use crate::report::record::Record;
use crate::report::record::Stage;
use crate::report::record::Verdict;
use crate::report::terminal::Better;
use crate::report::terminal::Row;
use crate::report::terminal::stage_names;
use crate::report::terminal::stage_rows;
use crate::report::terminal::total_rows;

/// Charts have black ink and a grid of almost black; the page says what that is.
const STYLE: &str = include_str!("page.css");
/// What a wide chart can show of its points.
const POINTS_MAX: usize = 900;
/// Lines for each halving of the distance to 100 %.
const TICKS: u32 = 20;
/// A shorter second at the end is shown with the one before it: of a few messages there is no rate.
const SECOND_MIN: f64 = 0.5;
/// What is further from 1 is shown to be better or worse.
const RATIO_EVEN: f64 = 0.05;
/// What a run is for, of which the first that it has stands at the top.
const MAIN_STAGES: [&str; 3] = ["end to end", "message", "MAIL to dot"];

/// The page of these runs; `names` are what they are called on it.
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
    let said = format!("{} {}, {when} UTC, {:.1} s", record.kind, record.run, record.seconds);
    let mut text = format!("<p class=\"soft\">{}</p>\n", escape(&said));
    if let Some(fault) = &record.first_fault {
        text += &format!("<p class=\"fault\">The first fault: {}</p>\n", escape(fault));
    }
    text += &tiles(record);
    text += &verdicts(record);
    text += &card("Latency by stage, in milliseconds", &stages(&record.stages));
    let named = record.stages.iter().map(|stage| &*stage.name);
    let curves = record.stages.iter().enumerate();
    let curves = curves.map(|(color, stage)| distribution(color, &stage.latencies)).collect();
    let chart = keys(named) + &charts::percentiles(curves)?;
    text += &card("Latency by percentile", &chart);
    let chart = charts::over_time("done per second", &[throughput(0, record)])?;
    text += &card("Throughput over time", &chart);
    let p50 = over_time(0, record, |all| all.ms(0.5));
    let p99 = over_time(1, record, |all| all.ms(0.99));
    let max = over_time(3, record, Hdr::max_ms);
    let keys = [(0, "p50"), (1, "p99"), (3, "max")].map(|(color, name)| key(color, name)).concat();
    let chart = charts::latency_over_time(vec![p50, p99, max])?;
    text += &card("Latency over time", &format!("<p>{keys}</p>\n{chart}"));
    text += "<div class=\"columns\">\n";
    let machine = record.machine.lines().into_iter().map(|(name, value)| (name.into(), value));
    text += &pairs("Machine", machine);
    let settings = record.settings.iter().map(|(name, value)| (name.clone(), value.clone()));
    text += &pairs("Settings", settings);
    let told = |counts: &BTreeMap<String, u64>| {
        let told = counts.iter().map(|(name, count)| (name.replace('_', " "), grouped(*count)));
        told.collect::<Vec<_>>()
    };
    text += &pairs("Counts", told(&record.counts).into_iter());
    text += &pairs("Ledger", told(&record.ledger).into_iter());
    Ok(text + "</div>\n")
}

/// What is looked for first.
fn tiles(record: &Record) -> String {
    let mut tiles = vec![(grouped(record.per_second.round() as u64), "per second".to_owned())];
    let main = MAIN_STAGES.iter().find_map(|name| {
        record.stages.iter().find(|stage| stage.name == *name && !stage.latencies.0.is_empty())
    });
    if let Some(Stage { name, latencies }) = main {
        for (short, quantile) in
            QUANTILES.into_iter().filter(|(_, at)| [0.5, 0.99, 0.999].contains(at))
        {
            tiles.push((
                format!("{} ms", figure(latencies.ms(quantile))),
                format!("{name}, {short}"),
            ));
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

/// Nothing where there are none.
fn pairs(title: &str, pairs: impl Iterator<Item = (String, String)>) -> String {
    let row = |(name, value): (String, String)| {
        let (name, value) = (escape(&name), escape(&value));
        format!("<tr><td>{name}</td><td class=\"text\">{value}</td></tr>\n")
    };
    let rows: String = pairs.map(row).collect();
    if rows.is_empty() { rows } else { card(title, &format!("<table>\n{rows}</table>\n")) }
}

/// What was expected; nothing where nothing was.
fn verdicts(record: &Record) -> String {
    if record.verdicts.is_empty() {
        return String::new();
    }
    let row = |verdict: &Verdict| {
        let (class, word) = if verdict.holds { ("soft", "holds") } else { ("fault", "FAILS") };
        let (that, found) = (escape(&verdict.that), escape(&verdict.found));
        format!(
            "<tr><td class=\"text {class}\">{word}</td><td class=\"text\">{that}</td>\
             <td class=\"text\">{found}</td></tr>\n"
        )
    };
    let rows: String = record.verdicts.iter().map(row).collect();
    card("Expectations", &format!("<table>\n{rows}</table>\n"))
}

fn stages(stages: &[Stage]) -> String {
    let heads = QUANTILES.map(|(name, _)| format!("<th>{name}</th>")).concat();
    let mut text = format!("<table>\n<tr><th>stage</th><th>count</th>{heads}<th>max</th></tr>\n");
    for stage in stages {
        let all = &stage.latencies;
        let figures = QUANTILES.map(|(_, at)| format!("<td>{}</td>", figure(all.ms(at)))).concat();
        let (name, count, max) = (escape(&stage.name), grouped(all.0.len()), figure(all.max_ms()));
        text += &format!("<tr><td>{name}</td><td>{count}</td>{figures}<td>{max}</td></tr>\n");
    }
    text + "</table>\n"
}

/// Several runs: what each came to, then each stage that any of them has, then their course.
fn compared(names: &[String], records: &[Record]) -> Drawn {
    let title = format!("Side by side; ratios are those to {}", names[0]);
    let mut text = card(&title, &table(names, &total_rows(records)));
    let keys = keys(names.iter().map(String::as_str));
    let mut stages = stage_names(records);
    // What the run is for comes first; the sort keeps the order of the others.
    let main = MAIN_STAGES.iter().find(|main| stages.iter().any(|name| name == *main));
    stages.sort_by_key(|name| main.is_none_or(|main| name != main));
    for name in stages {
        let of = |record: &Record| {
            let found = record.stages.iter().find(|other| other.name == *name);
            found.map(|stage| stage.latencies.clone())
        };
        let curves = records.iter().map(of).enumerate();
        let curves = curves.filter_map(|(color, all)| Some(distribution(color, &all?))).collect();
        let content = across(names, &stage_rows(name, records)) + &keys;
        text += &card(name, &(content + &charts::percentiles(curves)?));
    }
    let curves: Vec<Curve> =
        records.iter().enumerate().map(|(color, record)| throughput(color, record)).collect();
    let chart = keys + &charts::over_time("done per second", &curves)?;
    Ok(text + &card("Throughput over time", &chart))
}

fn table(names: &[String], rows: &[Row]) -> String {
    let mut text = "<table>\n<tr><th></th>".to_owned();
    for (place, name) in names.iter().enumerate() {
        let ratio = if place > 0 { "<th>ratio</th>" } else { "" };
        let _ = write!(text, "<th>{}</th>{ratio}", escape(name));
    }
    text += "</tr>\n";
    // What never was is of no interest beside what was.
    for row in rows.iter().filter(|row| row.figures.iter().any(|one| *one != Some(0.0))) {
        let _ = write!(text, "<tr><td>{}</td>", escape(&row.name.replace('_', " ")));
        let ratios = std::iter::once(None).chain(row.ratios());
        for (place, (value, ratio)) in row.figures.iter().zip(ratios).enumerate() {
            text += &format!("<td>{}</td>", shown(row, *value));
            text += &(if place > 0 { ratio_cell(row.better, ratio) } else { String::new() });
        }
        text += "</tr>\n";
    }
    text + "</table>\n"
}

/// The figures of a stage: a line for each run, and one for its ratio.
fn across(names: &[String], rows: &[Row]) -> String {
    let heads: String = rows.iter().map(|row| format!("<th>{}</th>", escape(&row.name))).collect();
    let mut text = format!("<table>\n<tr><th></th>{heads}</tr>\n");
    for (place, name) in names.iter().enumerate() {
        let cells = rows.iter().map(|row| format!("<td>{}</td>", shown(row, row.figures[place])));
        let cells: String = cells.collect();
        text += &format!("<tr><td>{}</td>{cells}</tr>\n", escape(name));
        if let Some(before) = place.checked_sub(1) {
            let cells = rows.iter().map(|row| ratio_cell(row.better, row.ratios()[before]));
            let cells: String = cells.collect();
            text += &format!("<tr><td class=\"soft\">ratio</td>{cells}</tr>\n");
        }
    }
    text + "</table>\n"
}

fn shown(row: &Row, value: Option<f64>) -> String {
    match value {
        None => "\u{2013}".to_owned(),
        Some(value) if row.whole => grouped(value as u64),
        Some(value) => figure(value),
    }
}

fn ratio_cell(better: Better, ratio: Option<f64>) -> String {
    let Some(ratio) = ratio else { return "<td>\u{2013}</td>".to_owned() };
    let is_more = ratio > 1.0;
    let class = match better {
        _ if (ratio - 1.0).abs() <= RATIO_EVEN => "",
        Better::Neither => "",
        Better::More if is_more => " class=\"good\"",
        Better::Less if !is_more => " class=\"good\"",
        Better::More | Better::Less => " class=\"bad\"",
    };
    format!("<td{class}>{ratio:.2}</td>")
}

fn keys<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let keys = names.enumerate().map(|(place, name)| key(place, name));
    format!("<p>{}</p>\n", keys.collect::<String>())
}

fn key(color: usize, name: &str) -> String {
    let (color, name) = (charts::color(color), escape(name));
    format!("<span class=\"key\"><i style=\"background:{color}\"></i>{name}</span>")
}

/// Three digits or a few more, as the histograms have them.
fn figure(value: f64) -> String {
    match value {
        100_000.0.. => grouped(value.round() as u64),
        100.0.. => format!("{value:.1}"),
        10.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Digits in groups of three.
fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() * 2);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn distribution(color: usize, all: &Hdr) -> Curve {
    let steps = all.0.iter_quantiles(TICKS);
    let points = steps.map(|step| {
        // The last step is 100 %, which no such axis has: it is as far as the count tells.
        let furthest = 1.0 - 1.0 / (all.0.len().max(1) as f64 + 1.0);
        (step.quantile_iterated_to().min(furthest), step.value_iterated_to() as f64 / 1000.0)
    });
    Curve { color, points: points.collect() }
}

fn throughput(color: usize, record: &Record) -> Curve {
    let whole = |group: &[Interval]| {
        let done: u64 = group.iter().map(|one| one.latencies.0.len()).sum();
        done as f64 / group.iter().map(|one| one.seconds).sum::<f64>()
    };
    Curve { color, points: pointed(record, whole) }
}

/// The worst of each point's seconds; none where nothing was done.
fn over_time(color: usize, record: &Record, figure: impl Fn(&Hdr) -> f64) -> Curve {
    let worst = |group: &[Interval]| {
        let busy = group.iter().filter(|one| !one.latencies.0.is_empty());
        busy.map(|one| figure(&one.latencies)).fold(f64::NAN, f64::max)
    };
    Curve { color, points: pointed(record, worst) }
}

/// So many seconds to a point that the chart can show them.
fn pointed(record: &Record, figure: impl Fn(&[Interval]) -> f64) -> Vec<(f64, f64)> {
    let each = record.intervals.len().div_ceil(POINTS_MAX).max(1);
    let mut groups: Vec<&[Interval]> = record.intervals.chunks(each).collect();
    let is_short =
        |group: &&[Interval]| group.iter().map(|one| one.seconds).sum::<f64>() < SECOND_MIN;
    if let [.., before, last] = groups[..]
        && is_short(&last)
    {
        groups.truncate(groups.len() - 2);
        groups.push(&record.intervals[record.intervals.len() - before.len() - last.len()..]);
    }
    let middle = |group: &[Interval]| {
        let end = group.last().map_or(0.0, |last| last.start + last.seconds);
        f64::midpoint(group.first().map_or(0.0, |first| first.start), end)
    };
    groups.into_iter().map(|group| (middle(group), figure(group))).collect()
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
    use crate::report::record::Verdict;
    use crate::report::record::tests::record;

    /// Every element is closed in the order it was opened. Answers the names of all, in order.
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
    fn a_page_is_whole_and_needs_nothing_else() {
        let mut evil = record(1000, 2);
        evil.stages[0].name = "<script>alert('1')</script>".into();
        evil.machine.cpu = Some("a & b </table>".into());
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
    fn a_day_is_shown_with_as_many_points_as_fit() {
        let mut long = record(10, 1);
        let one = long.intervals[0].clone();
        long.intervals = (0..86_400_u32)
            .map(|second| Interval { start: f64::from(second), ..one.clone() })
            .take(2000)
            .collect();
        let curve = throughput(0, &long);
        assert_eq!(curve.points.len(), 667);
        assert!(curve.points.iter().all(|point| (point.1 - 5.0).abs() < 1e-9));
        assert_eq!(curve.points[0].0, 1.5);
    }
}
