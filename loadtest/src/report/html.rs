//! Records as one page of HTML that needs nothing else: no network, no script.
//!
//! Promise:  whatever stands in a record is text on the page and never markup.

use std::fmt::Write;

use crate::report::charts;
use crate::report::charts::Curve;
use crate::report::record::Hdr;
use crate::report::record::Interval;
use crate::report::record::QUANTILES;
use crate::report::record::Record;
use crate::report::terminal::rows;

/// Charts have black ink and a grid of almost black; the page says what that is.
const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c1c1c; --paper: #fff; --grid: #ddd; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e4e4; --paper: #181818; --grid: #3c3c3c; } }
body { font: 15px/1.45 sans-serif; color: var(--ink); background: var(--paper);
  max-width: 960px; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; margin: 1em 0; display: block; overflow-x: auto; }
td, th { padding: .2em .7em; text-align: right; border-bottom: 1px solid var(--grid);
  font-variant-numeric: tabular-nums; }
td:first-child, th:first-child { text-align: left; }
td.text { text-align: left; }
svg { max-width: 100%; height: auto; }
svg text { fill: var(--ink); }
svg [stroke=\"#000000\"] { stroke: var(--ink); }
svg [stroke=\"#000001\"] { stroke: var(--grid); }
.key { display: inline-block; margin-right: 1.2em; }
.key i { display: inline-block; width: 1.4em; height: .25em; vertical-align: middle;
  margin-right: .4em; }
";
/// What a wide chart can show of its points.
const POINTS_MAX: usize = 900;
/// Lines for each halving of the distance to 100 %.
const TICKS: u32 = 20;

/// The page of these runs; `names` are what they are called on it.
pub fn page(names: &[String], records: &[Record]) -> Result<String, String> {
    let drawn = |cause: Box<dyn std::error::Error>| format!("drawing: {cause}");
    let title = format!("ringpost-load: {}", names.join(", "));
    let title = escape(&title);
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
    );
    if records.len() > 1 {
        page += "<h2>Side by side</h2>\n";
        page += &side_by_side(names, records);
        page += &compared(names, records).map_err(drawn)?;
    }
    for (name, record) in names.iter().zip(records) {
        page += &run(name, record).map_err(drawn)?;
    }
    Ok(page + "</body>\n</html>\n")
}

type Drawn = Result<String, Box<dyn std::error::Error>>;

fn run(name: &str, record: &Record) -> Drawn {
    let mut text = format!("<h2>{}</h2>\n", escape(name));
    let said = format!(
        "{} {} of {}: {:.2} s, {:.1} per second",
        record.kind, record.run, record.when, record.seconds, record.per_second
    );
    text += &format!("<p>{}</p>\n", escape(&said));
    if let Some(fault) = &record.first_fault {
        text += &format!("<p>The first fault: {}</p>\n", escape(fault));
    }
    text += &verdicts(record);
    text += &stages(record);
    text += "<h3>Latency by percentile</h3>\n";
    let named = record.stages.iter().map(|stage| &*stage.name);
    text += &keys(named);
    let curves = record.stages.iter().enumerate();
    let curves = curves.map(|(color, stage)| distribution(color, &stage.latencies)).collect();
    text += &charts::percentiles(curves)?;
    text += "<h3>Throughput over time</h3>\n";
    text += &charts::over_time("done per second", &[throughput(0, record)])?;
    text += "<h3>Latency over time</h3>\n";
    text += &keys(["p50", "p99", "max"].into_iter());
    let p50 = over_time(0, record, |all| all.ms(0.5));
    let p99 = over_time(1, record, |all| all.ms(0.99));
    let max = over_time(2, record, Hdr::max_ms);
    text += &charts::over_time("milliseconds", &[p50, p99, max])?;
    text += "<h3>Machine and settings</h3>\n";
    let machine = record.machine.lines().into_iter().map(|(name, value)| (name.into(), value));
    let counts = record.counts.iter().map(|(name, count)| (name.clone(), count.to_string()));
    let settings = record.settings.iter().map(|(name, value)| (name.clone(), value.clone()));
    text += "<table>\n";
    for (name, value) in machine.chain(counts).chain(settings) {
        let (name, value) = (escape(&name), escape(&value));
        text += &format!("<tr><td>{name}</td><td class=\"text\">{value}</td></tr>\n");
    }
    Ok(text + "</table>\n")
}

/// What was expected; nothing where nothing was.
fn verdicts(record: &Record) -> String {
    if record.verdicts.is_empty() {
        return String::new();
    }
    let mut text = "<table>\n".to_owned();
    for verdict in &record.verdicts {
        let word = if verdict.holds { "holds" } else { "FAILS" };
        let (that, found) = (escape(&verdict.that), escape(&verdict.found));
        text += &format!(
            "<tr><td>{word}</td><td class=\"text\">{that}</td><td class=\"text\">{found}</td></tr>\n"
        );
    }
    text + "</table>\n"
}

fn stages(record: &Record) -> String {
    let heads = QUANTILES.map(|(name, _)| format!("<th>{name}</th>")).concat();
    let mut text =
        format!("<table>\n<tr><th>milliseconds</th><th>count</th>{heads}<th>max</th></tr>\n");
    for stage in &record.stages {
        let all = &stage.latencies;
        let figures = QUANTILES.map(|(_, at)| format!("<td>{:.3}</td>", all.ms(at))).concat();
        let (name, count, max) = (escape(&stage.name), all.0.len(), all.max_ms());
        text += &format!("<tr><td>{name}</td><td>{count}</td>{figures}<td>{max:.3}</td></tr>\n");
    }
    text + "</table>\n"
}

fn side_by_side(names: &[String], records: &[Record]) -> String {
    let mut text = "<table>\n<tr><th></th>".to_owned();
    for (place, name) in names.iter().enumerate() {
        let ratio = if place > 0 { "<th>ratio</th>" } else { "" };
        let _ = write!(text, "<th>{}</th>{ratio}", escape(name));
    }
    text += "</tr>\n";
    for row in rows(records) {
        let _ = write!(text, "<tr><td>{}</td>", escape(&row.name));
        let ratios = std::iter::once(None).chain(row.ratios());
        for (place, (figure, ratio)) in row.figures.iter().zip(ratios).enumerate() {
            let _ = write!(text, "<td>{}</td>", row.shown(*figure));
            let ratio = ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
            text += &(if place > 0 { format!("<td>{ratio}</td>") } else { String::new() });
        }
        text += "</tr>\n";
    }
    text + "</table>\n"
}

/// Each stage that all runs have, and what they did each second, in one chart.
fn compared(names: &[String], records: &[Record]) -> Drawn {
    let keys = keys(names.iter().map(String::as_str));
    let mut text = String::new();
    for stage in records.first().map_or(&[][..], |first| &first.stages) {
        let of = |record: &Record| {
            let found = record.stages.iter().find(|other| other.name == stage.name)?;
            Some(found.latencies.clone())
        };
        let Some(all) = records.iter().map(of).collect::<Option<Vec<Hdr>>>() else { continue };
        text += &format!("<h3>{}: latency by percentile</h3>\n{keys}", escape(&stage.name));
        let curves = all.iter().enumerate().map(|(color, one)| distribution(color, one)).collect();
        text += &charts::percentiles(curves)?;
    }
    text += &format!("<h3>Throughput over time</h3>\n{keys}");
    let curves: Vec<Curve> =
        records.iter().enumerate().map(|(color, record)| throughput(color, record)).collect();
    Ok(text + &charts::over_time("done per second", &curves)?)
}

fn keys<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut text = "<p>".to_owned();
    for (place, name) in names.enumerate() {
        let (color, name) = (charts::color(place), escape(name));
        let _ =
            write!(text, "<span class=\"key\"><i style=\"background:{color}\"></i>{name}</span>");
    }
    text + "</p>\n"
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
    Curve { color, points: grouped(record, whole) }
}

/// The worst of each point's seconds.
fn over_time(color: usize, record: &Record, figure: impl Fn(&Hdr) -> f64) -> Curve {
    let worst =
        |group: &[Interval]| group.iter().map(|one| figure(&one.latencies)).fold(0.0, f64::max);
    Curve { color, points: grouped(record, worst) }
}

/// So many seconds to a point that the chart can show them.
fn grouped(record: &Record, figure: impl Fn(&[Interval]) -> f64) -> Vec<(f64, f64)> {
    let each = record.intervals.len().div_ceil(POINTS_MAX).max(1);
    let middle = |group: &[Interval]| {
        let end = group.last().map_or(0.0, |last| last.start + last.seconds);
        f64::midpoint(group.first().map_or(0.0, |first| first.start), end)
    };
    record.intervals.chunks(each).map(|group| (middle(group), figure(group))).collect()
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
        assert_eq!(seen.iter().filter(|name| **name == "svg").count(), 8, "each chart once");
        let own = page.replace("http://www.w3.org/2000/svg", "");
        for reference in ["http", "url(", "@import", "src=x>", "javascript:"] {
            assert!(!own.contains(reference), "{reference}");
        }
        assert!(page.contains("&lt;b&gt;550 &amp; &quot;no&quot;&lt;/b&gt;"));
        let verdict = "<td>FAILS</td><td class=\"text\">&lt;i&gt;all&lt;/i&gt; arrive</td>";
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
