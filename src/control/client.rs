//! The other end of the control socket: `ringpost queue ...`, `ringpost audit` and
//! `ringpost health`.
//!
//! Promise:  the same answers from a running server, through its socket, and from the spool of a
//!           stopped one, opened directly. Only orders take the spool's lock.

use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::Value;
use serde_json::json;

use crate::base::clock::wall_ms;
use crate::config::Config;
use crate::control::admin;
use crate::control::admin::Request;
use crate::control::orders;
use crate::control::orders::Selection;
use crate::queue::Access;
use crate::queue::Notice;
use crate::queue::Spool;
use crate::queue::SpoolOptions;
use crate::queue::inspect;
use crate::queue::notice::Loudness;
use crate::queue::operate::Operation;
use crate::queue::select::Wanted;
use crate::wire::mail::date;
use crate::wire::mail::header;

/// Bytes of a message's front in which its header is looked for.
const HEADER_BYTES_MAX: usize = 64 << 10;

/// What `ringpost queue` may be asked; see its arguments in `main`.
pub enum QueueCommand {
    Summary { limit: usize },
    List { limit: usize, after: Option<String>, wanted: Wanted },
    Show { id: String },
    Stats,
    Cat { id: String },
    Delete { ids: Vec<String> },
    Operate { operation: Operation, selection: Selection },
}

/// Where answers come from.
pub(super) enum Source {
    Running(Box<dyn Fn() -> io::Result<UnixStream>>),
    Stopped(Box<Spool>),
}

/// Carries out a queue command and prints its answer.
pub fn queue(config: &Config, command: &QueueCommand, json: bool) -> ExitCode {
    let writes = matches!(command, QueueCommand::Delete { .. } | QueueCommand::Operate { .. });
    let source = match find_source(config, writes) {
        Ok(source) => source,
        Err(cause) => return told(&cause),
    };
    let done = match command {
        QueueCommand::Cat { id } => source.cat(id, &mut io::stdout().lock()),
        QueueCommand::Delete { ids } => delete(&source, ids, json),
        QueueCommand::Operate { operation, selection } => {
            orders::order(&source, operation, selection, json)
        }
        QueueCommand::Summary { limit } => source
            .ask(&Request::Summary { limit: *limit })
            .map(|answer| print_answer(&answer, json, orders::print_summary)),
        QueueCommand::List { limit, after, wanted } => list(&source, *limit, after.clone(), wanted)
            .map(|rows| print_answer(&rows, json, print_list)),
        QueueCommand::Show { id } => {
            show(&source, id).map(|it| print_answer(&it, json, print_show))
        }
        QueueCommand::Stats => {
            source.ask(&Request::Stats).map(|stats| print_answer(&stats, json, print_stats))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => told(&cause),
    }
}

/// Whether every recipient that was taken is accounted for: exit code 0 when it adds up and nothing
/// is in quarantine.
pub fn audit(config: &Config, json: bool) -> ExitCode {
    let found = find_source(config, false).and_then(|source| source.ask(&Request::Audit));
    match found {
        Ok(found) => {
            print_answer(&found, json, print_audit);
            let is_clean = found["adds_up"] == true && found["in_quarantine"] == 0;
            if is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(cause) => told(&cause),
    }
}

/// Exit code 0 when the server runs, its shards tick and mail would be taken. What an operator must
/// look into all the same is printed as `degraded`, as by `/health`.
pub fn health(config: &Config) -> ExitCode {
    let socket = config.control.socket.clone();
    let running = Source::Running(Box::new(move || UnixStream::connect(&socket)));
    match running.ask(&Request::Health) {
        Ok(found) => {
            let list = |name: &str| {
                let texts = found[name].as_array().into_iter().flatten();
                texts.filter_map(Value::as_str).collect::<Vec<&str>>()
            };
            let (faults, warnings) =
                ([list("faults"), list("obstacles")].concat(), list("warnings"));
            match (faults.is_empty(), warnings.is_empty()) {
                (true, true) => println!("ok"),
                (true, false) => println!("degraded: {}", warnings.join("; ")),
                (false, _) => return told(&faults.join("; ")),
            }
            ExitCode::SUCCESS
        }
        Err(cause) => told(&cause),
    }
}

pub(super) fn find_source(config: &Config, writes: bool) -> Result<Source, String> {
    let socket = config.control.socket.clone();
    match UnixStream::connect(&socket) {
        Ok(_) => Ok(Source::Running(Box::new(move || UnixStream::connect(&socket)))),
        Err(cause) if is_nobody(&cause) => open_stopped(&config.server.spool, writes),
        Err(cause) => Err(format!("{}: {cause}; use the server's user or root", socket.display())),
    }
}

/// No socket, or one that its server left behind.
fn is_nobody(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn open_stopped(path: &Path, writes: bool) -> Result<Source, String> {
    if !path.join("ringpost.json").exists() {
        return Err(format!(
            "{}: no spool here and no server; name the server's config with --config",
            path.display()
        ));
    }
    let mut options = SpoolOptions::new(path, wall_ms());
    options.access = if writes { Access::Serve } else { Access::Inspect };
    options.on_notice = Arc::new(|notice: Notice| {
        if notice.loudness() == Loudness::Error {
            eprintln!("ringpost: {notice}");
        }
    });
    let spool = Spool::open(options).map_err(|fault| format!("{fault}; {}", fault.remedy()))?;
    Ok(Source::Stopped(Box::new(spool)))
}

impl Source {
    pub(super) fn ask(&self, request: &Request) -> Result<Value, String> {
        match self {
            Source::Stopped(spool) => match request {
                Request::Delete { id } => {
                    let parsed = admin::parse(spool, id)?;
                    inspect::delete(spool, parsed).map_err(|fault| format!("{id}: {fault}"))?;
                    Ok(Value::Null)
                }
                request => orders::without_server(spool, request)
                    .unwrap_or_else(|| admin::look(spool, request)),
            },
            Source::Running(connect) => {
                let (answer, _) = send(connect, request)?;
                outcome(answer)
            }
        }
    }

    fn cat(&self, id: &str, out: &mut impl Write) -> Result<(), String> {
        let piped = |cause: io::Error| format!("output: {cause}");
        match self {
            Source::Stopped(spool) => {
                let parsed = admin::parse(spool, id)?;
                let told = |fault: crate::queue::QueueFault| format!("{id}: {fault}");
                for piece in inspect::cat(spool, parsed).map_err(told)? {
                    out.write_all(&piece.map_err(told)?).map_err(piped)?;
                }
                Ok(())
            }
            Source::Running(connect) => {
                let (mut answer, mut stream) = send(connect, &Request::Cat { id: id.to_owned() })?;
                while let Some(bytes) = answer["bytes"].as_u64() {
                    let copied = io::copy(&mut (&mut stream).take(bytes), out).map_err(piped)?;
                    if copied < bytes {
                        return Err("the server broke off".to_owned());
                    }
                    answer = read_line(&mut stream)?;
                }
                outcome(answer).map(drop)
            }
        }
    }
}

type Connect = dyn Fn() -> io::Result<UnixStream>;

fn send(connect: &Connect, request: &Request) -> Result<(Value, BufReader<UnixStream>), String> {
    let told = |cause: io::Error| format!("control socket: {cause}; is the server running?");
    let mut stream = connect().map_err(told)?;
    let mut line = json!(request).to_string();
    line.push('\n');
    stream.write_all(line.as_bytes()).map_err(told)?;
    let mut stream = BufReader::new(stream);
    Ok((read_line(&mut stream)?, stream))
}

fn read_line(stream: &mut BufReader<UnixStream>) -> Result<Value, String> {
    let mut line = String::new();
    stream.read_line(&mut line).map_err(|cause| format!("control socket: {cause}"))?;
    serde_json::from_str(&line).map_err(|cause| format!("control socket: {cause}"))
}

fn outcome(answer: Value) -> Result<Value, String> {
    match answer["fault"].as_str() {
        Some(fault) => Err(fault.to_owned()),
        None => Ok(answer["ok"].clone()),
    }
}

/// Page after page, until the limit or the end.
fn list(
    source: &Source,
    limit: usize,
    mut after: Option<String>,
    by: &Wanted,
) -> Result<Value, String> {
    let mut all = Vec::new();
    while all.len() < limit {
        let wanted = (limit - all.len()).min(admin::LIST_PAGE_ROWS);
        let request = Request::List { limit: wanted, after, wanted: by.clone() };
        let page = source.ask(&request)?;
        let Value::Array(rows) = page else { break };
        let ended = rows.len() < wanted;
        all.extend(rows);
        after = all.last().and_then(|row| row["id"].as_str()).map(str::to_owned);
        if ended || after.is_none() {
            break;
        }
    }
    Ok(Value::Array(all))
}

fn delete(source: &Source, ids: &[String], json: bool) -> Result<(), String> {
    let mut faults = Vec::new();
    let mut rows = Vec::new();
    for id in ids {
        match source.ask(&Request::Delete { id: id.clone() }) {
            Ok(_) => rows.push(json!({ "id": id, "deleted": true })),
            Err(fault) => {
                rows.push(json!({ "id": id, "deleted": false, "fault": fault }));
                faults.push(fault);
            }
        }
    }
    print_answer(&Value::Array(rows), json, |rows| {
        let deleted = rows.as_array().into_iter().flatten().filter(|row| row["deleted"] == true);
        deleted.for_each(|row| println!("{}: deleted", text(&row["id"])));
    });
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\nringpost: ")) }
}

/// The stored facts, and what the message's own header says.
fn show(source: &Source, id: &str) -> Result<Value, String> {
    let mut details = source.ask(&Request::Show { id: id.to_owned() })?;
    let mut front = Front(Vec::new());
    // A front that is all there is to see, or a damaged body, still shows its header.
    let _ = source.cat(id, &mut front);
    let summary = header::summary(&front.0);
    details["header"] = json!({
        "from": summary.from,
        "to": summary.to,
        "subject": summary.subject,
        "date": summary.date,
    });
    Ok(details)
}

/// Takes the front of a message and stops its reader there.
struct Front(Vec<u8>);

impl Write for Front {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() >= HEADER_BYTES_MAX {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn print_answer(value: &Value, json: bool, print: impl Fn(&Value)) {
    if json {
        println!("{value:#}");
    } else {
        print(value);
    }
}

fn print_list(rows: &Value) {
    let rows = rows.as_array().map_or(&[][..], Vec::as_slice);
    println!("{:17}  {:24}  {:>10}  {:32}  recipients", "id", "received", "bytes", "sender");
    for row in rows {
        if let Some(fault) = row["fault"].as_str() {
            println!("{:17}  unreadable: {fault}", text(&row["id"]));
            continue;
        }
        let more = match row["recipients"].as_u64() {
            Some(count @ 2..) => format!(" and {} more", count - 1),
            _ => String::new(),
        };
        println!(
            "{:17}  {:24}  {:>10}  {:32}  {}{more}",
            text(&row["id"]),
            time(&row["received_ms"]),
            number(&row["bytes"]),
            row["sender"].as_str().unwrap_or("<>"),
            text(&row["first_recipient"]),
        );
    }
    println!("{} messages", rows.len());
}

fn print_show(details: &Value) {
    let Some(fields) = details.as_object() else { return };
    for (key, value) in fields {
        match value {
            Value::Null => {}
            Value::Array(rows) => {
                println!("{key}:");
                rows.iter().for_each(|row| println!("  {row}"));
            }
            Value::Object(facts) => {
                for (name, fact) in facts.iter().filter(|(_, fact)| !fact.is_null()) {
                    println!("{key}.{name}: {}", plain(fact));
                }
            }
            value if key.ends_with("_ms") => {
                println!("{}: {}", key.trim_end_matches("_ms"), time(value));
            }
            value => println!("{key}: {}", plain(value)),
        }
    }
}

fn print_stats(stats: &Value) {
    println!("messages: {}", stats["messages"]);
    println!("body bytes: {}", stats["body_bytes"]);
    if stats["oldest_ms"].is_u64() {
        println!("oldest: {}", time(&stats["oldest_ms"]));
    }
    println!("in quarantine: {}", stats["in_quarantine"]);
    for one in stats["partitions"].as_array().into_iter().flatten() {
        println!(
            "partition {}: {} messages, {} body bytes, {} bodies under way, disk: {} tables, {} \
             blobs, {} log",
            one["partition"],
            one["messages"],
            one["body_bytes"],
            one["streams"],
            one["sst_bytes"],
            one["blob_bytes"],
            one["log_bytes"],
        );
        if let Some(failure) = one["failure"].as_str() {
            println!("partition {}: takes no mail: {failure}", one["partition"]);
        }
    }
}

fn print_audit(found: &Value) {
    for one in found["partitions"].as_array().into_iter().flatten() {
        println!("partition {}: {}", one["partition"], equation(one));
    }
    println!("in all: {}", equation(found));
    println!("{}", if found["adds_up"] == true { "it adds up" } else { "IT DOES NOT ADD UP" });
    if number(&found["in_quarantine"]) > 0 {
        println!(
            "IN QUARANTINE: {} unreadable records or folders. The reason is in a .why file beside \
             each or in the log. Remove each from the spool's quarantine folder when resolved.",
            found["in_quarantine"]
        );
    }
}

fn equation(one: &Value) -> String {
    let told = format!(
        "{} taken = {} delivered + {} bounced + {} expired + {} deleted + {} quarantined + {} queued",
        one["taken"],
        one["delivered"],
        one["bounced"],
        one["expired"],
        one["deleted"],
        one["quarantined"],
        one["queued"],
    );
    match (one["difference"].as_i64(), one["unreadable_jobs"].as_u64()) {
        (Some(0), Some(0)) => told,
        (_, Some(0)) => format!("{told}; difference {}", one["difference"]),
        _ => format!(
            "{told}; difference {}, {} jobs cannot be read",
            one["difference"], one["unreadable_jobs"]
        ),
    }
}

/// A number for a column: JSON's own form takes no width.
pub(super) fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

/// What a peer sent must not drive the terminal.
pub(super) fn plain(value: &Value) -> String {
    let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    shown.trim_end().chars().flat_map(printable).collect()
}

fn printable(letter: char) -> impl Iterator<Item = char> {
    let escaped = letter.is_control().then(|| letter.escape_default());
    let kept = escaped.is_none().then_some(letter);
    escaped.into_iter().flatten().chain(kept)
}

pub(super) fn time(value: &Value) -> String {
    value.as_u64().map_or_else(String::new, date::rfc3339)
}

pub(super) fn told(cause: &str) -> ExitCode {
    eprintln!("ringpost: {cause}");
    ExitCode::FAILURE
}
