//! What monitoring reads over HTTP: metrics, health, readiness, percentiles.
//!
//! Owner:    the monitor thread. `serve` runs on its tokio runtime until it is dropped.
//! Promise:  read-only. However many requests come, a shard copies its histograms at most once per
//!           `FIGURES_AGE_MAX`, in its own ticker; destinations come from its last snapshot.
//! Bounds:   `HISTOGRAM_WAIT_MS` for the shards' answer. `WAITING_MAX` requests may wait for it; the
//!           next gets 503, so that slots remain for /health. Request sizes by axum's defaults,
//!           connections by `connections`. No authentication: the listener belongs on the loopback
//!           address or behind a proxy.

use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::http::header::HeaderName;
use axum::middleware::from_fn;
use axum::routing::get;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::sync::Semaphore;
use tokio::sync::TryAcquireError;
use tokio::time::Instant;
use tokio::time::sleep;

use crate::control::connections::BoundedListener;
use crate::control::connections::SILENCE_MAX;
use crate::control::connections::Slot;
use crate::control::connections::answering;
use crate::control::operators::Destinations;
use crate::observe::Observed;
use crate::observe::ShardObserved;
use crate::observe::Stage;
use crate::observe::histogram::Merged;
use crate::observe::histogram::QUANTILES;
use crate::observe::log;
use crate::observe::metric;
use crate::observe::metric::Kind;
use crate::observe::metric::Reading;
use crate::observe::metric::Scope;

/// How long the shards may take to lay out their histograms: many ticks of their tickers.
const HISTOGRAM_WAIT_MS: u64 = 1_000;

/// Pause between two looks at whether they have.
const HISTOGRAM_LOOK_MS: u64 = 2;

/// Figures are shown again for so long before the shards are asked for newer ones.
const FIGURES_AGE_MAX: Duration = Duration::from_millis(500);

/// Requests that wait for figures at a time: a quarter of the connections.
const WAITING_MAX: usize = 16;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const TEXT: &str = "text/plain; charset=utf-8";
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";
const PATHS: &str = "/metrics\n/health\n/ready\n/stats\n/stats/hdr/NAME\n";

type Answer = (StatusCode, [(HeaderName, &'static str); 1], String);

/// The destinations with the most mail, from the shards' last snapshots. It never waits.
pub type TopDestinations = Arc<dyn Fn() -> Destinations + Send + Sync>;

/// What handlers share.
struct Shown {
    observed: Arc<Observed>,
    top: TopDestinations,
    /// The last figures, and when they were made.
    figures: Mutex<Option<(Instant, Arc<Merged>)>>,
    waiting: Semaphore,
}

/// Answers requests until the future is dropped.
pub async fn serve(
    listener: TcpListener,
    observed: Arc<Observed>,
    top: TopDestinations,
) -> io::Result<()> {
    serve_on(BoundedListener::new(listener, SILENCE_MAX), observed, top).await
}

async fn serve_on(
    listener: BoundedListener,
    observed: Arc<Observed>,
    top: TopDestinations,
) -> io::Result<()> {
    let service = router(observed, top).into_make_service_with_connect_info::<Slot>();
    axum::serve(listener, service).await
}

fn router(observed: Arc<Observed>, top: TopDestinations) -> Router {
    let (figures, waiting) = (Mutex::default(), Semaphore::new(WAITING_MAX));
    Router::new()
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/stats", get(stats))
        .route("/stats/hdr/{name}", get(hgrm))
        .fallback(unknown)
        .layer(from_fn(answering))
        .with_state(Arc::new(Shown { observed, top, figures, waiting }))
}

async fn metrics(State(shown): State<Arc<Shown>>) -> Answer {
    let observed = &shown.observed;
    let mut out = String::new();
    metric::expose(&mut out, &shard_readings(observed));
    metric::expose(&mut out, &metric::read(&[&*observed.process]));
    expose_machine(&mut out, observed);
    answer(StatusCode::OK, EXPOSITION, out)
}

async fn health(State(shown): State<Arc<Shown>>) -> Answer {
    let observed = &shown.observed;
    let faults = observed.faults(observed.now_ms());
    let warnings = observed.warnings();
    if faults.is_empty() && !warnings.is_empty() {
        // The server serves: a service manager must not restart it for this.
        return answer(StatusCode::OK, TEXT, format!("degraded\n{}\n", warnings.join("\n")));
    }
    if faults.is_empty() {
        return answer(StatusCode::OK, TEXT, "ok\n".to_owned());
    }
    answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, faults.join("\n") + "\n")
}

async fn ready(State(shown): State<Arc<Shown>>) -> Answer {
    let observed = &shown.observed;
    let mut causes = observed.faults(observed.now_ms());
    causes.extend(observed.obstacles().into_iter().map(str::to_owned));
    if causes.is_empty() {
        return answer(StatusCode::OK, TEXT, "ready\n".to_owned());
    }
    answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, causes.join("\n") + "\n")
}

async fn stats(State(shown): State<Arc<Shown>>) -> Answer {
    let merged = match shown.figures().await {
        Ok(merged) => merged,
        Err(_) => return busy(),
    };
    let observed = &shown.observed;
    let process = &observed.process;
    let readings = shard_readings(observed);
    let destinations = (shown.top)();
    let stats = json!({
        "version": VERSION,
        "uptime_seconds": observed.now_ms() / 1000,
        "ready": observed.obstacles().is_empty() && observed.faults(observed.now_ms()).is_empty(),
        "stages": stages_json(&merged),
        "silent_shards": merged.silent,
        "counters": counters_json(&readings),
        "destinations": destinations.largest,
        "other_destinations": destinations.others,
        "shards": shards_json(observed, &readings),
        "spool": {
            "full": process.spool_full.value() > 0,
            "failed_partitions": process.spool_failed_partitions.value(),
            "free_bytes": process.spool_free_bytes.value(),
            "free_inodes": process.spool_free_inodes.value(),
        },
        "log_lines_dropped": log::lines_dropped(),
    });
    answer(StatusCode::OK, "application/json", format!("{stats:#}\n"))
}

async fn hgrm(State(shown): State<Arc<Shown>>, Path(name): Path<String>) -> Answer {
    let Some(stage) = Stage::from_name(name.strip_suffix(".hgrm").unwrap_or(&name)) else {
        let names: Vec<String> = Stage::ALL
            .iter()
            .map(|stage| format!("{}: {}, {}\n", stage.name(), stage.help(), stage.unit()))
            .collect();
        return answer(StatusCode::NOT_FOUND, TEXT, format!("one of\n{}", names.concat()));
    };
    match shown.figures().await {
        Ok(merged) => answer(StatusCode::OK, TEXT, merged.to_hgrm(stage)),
        Err(_) => busy(),
    }
}

async fn unknown() -> Answer {
    answer(StatusCode::NOT_FOUND, TEXT, format!("one of\n{PATHS}"))
}

fn busy() -> Answer {
    let text = "too many requests at once, try again\n".to_owned();
    answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, text)
}

fn answer(status: StatusCode, kind: &'static str, text: String) -> Answer {
    (status, [(CONTENT_TYPE, kind)], text)
}

impl Shown {
    /// All shards' figures, of now or a little older; refused where too many wait for them.
    async fn figures(&self) -> Result<Arc<Merged>, TryAcquireError> {
        let _place = self.waiting.try_acquire()?;
        let mut figures = self.figures.lock().await;
        if let Some((made, merged)) = &*figures
            && made.elapsed() < FIGURES_AGE_MAX
        {
            return Ok(Arc::clone(merged));
        }
        let merged = Arc::new(collect(&self.observed).await);
        *figures = Some((Instant::now(), Arc::clone(&merged)));
        Ok(merged)
    }
}

/// As `HistogramReader::collect`, but without blocking the monitor thread.
async fn collect(observed: &Observed) -> Merged {
    let reader = &observed.histograms;
    let request = reader.request();
    let deadline = Instant::now() + Duration::from_millis(HISTOGRAM_WAIT_MS);
    while !reader.is_answered(&request) && Instant::now() < deadline {
        sleep(Duration::from_millis(HISTOGRAM_LOOK_MS)).await;
    }
    reader.merge(&request)
}

fn shard_readings(observed: &Observed) -> Vec<Reading> {
    let tables: Vec<_> = observed.shards.iter().map(|shard| &shard.metrics).collect();
    metric::read(&tables)
}

fn stages_json(merged: &Merged) -> Value {
    let stage_json = |stage: Stage| {
        let summary = merged.summary(stage);
        let mut fields = Map::new();
        fields.insert("unit".to_owned(), stage.unit().into());
        fields.insert("count".to_owned(), summary.count.into());
        fields.insert("min".to_owned(), summary.min.into());
        fields.insert("mean".to_owned(), summary.mean.into());
        for (key, quantile) in QUANTILES {
            fields.insert(key.to_owned(), merged.at_quantile(stage, quantile).into());
        }
        fields.insert("max".to_owned(), summary.max.into());
        (stage.name().to_owned(), Value::Object(fields))
    };
    Stage::ALL.into_iter().map(stage_json).collect::<Map<_, _>>().into()
}

/// Every metric of the shards, summed; one with a label is an object.
fn counters_json(readings: &[Reading]) -> Value {
    let entry = |reading: &Reading| {
        let sums = reading.sums();
        let value = match reading.descriptor.label {
            None => sums[0].into(),
            Some((_, values)) => values
                .iter()
                .zip(sums)
                .map(|(label, sum)| ((*label).to_owned(), sum.into()))
                .collect::<Map<_, _>>()
                .into(),
        };
        (reading.descriptor.name.to_owned(), value)
    };
    readings.iter().map(entry).collect::<Map<_, _>>().into()
}

/// For each shard, what is told apart by shard.
fn shards_json(observed: &Observed, readings: &[Reading]) -> Value {
    let now_ms = observed.now_ms();
    let shard_json = |(place, shard): (usize, &Arc<ShardObserved>)| {
        let mut fields = Map::new();
        fields.insert("shard".to_owned(), shard.id.0.into());
        fields.insert("silent_ms".to_owned(), shard.silent_ms(now_ms).into());
        let apart = readings.iter().filter(|reading| reading.descriptor.scope == Scope::EachShard);
        for reading in apart {
            let sum: u64 = reading.by_source[place].iter().sum();
            fields.insert(reading.descriptor.name.to_owned(), sum.into());
        }
        Value::Object(fields)
    };
    observed.shards.iter().enumerate().map(shard_json).collect()
}

/// What is only known when it is asked for. What the kernel does not tell is left out.
fn expose_machine(out: &mut String, observed: &Observed) {
    let build = format!("{{version=\"{VERSION}\"}}");
    let help = "The build that runs.";
    metric::expose_one(out, ("build_info", Kind::Gauge), help, (&build, 1.0));
    let uptime = observed.now_ms() as f64 / 1000.0;
    let rows = [
        ("uptime_seconds", Kind::Gauge, "Seconds since the start.", Some(uptime)),
        (
            "log_lines_dropped_total",
            Kind::Counter,
            "Log lines dropped: a lane was full, or the output failed.",
            Some(log::lines_dropped() as f64),
        ),
        ("resident_memory_bytes", Kind::Gauge, "Resident memory.", resident_bytes()),
        ("open_fds", Kind::Gauge, "Open file descriptors.", open_descriptors()),
        ("cpu_seconds_total", Kind::Counter, "Processor time, user and system.", cpu_seconds()),
    ];
    for (name, kind, help, value) in rows {
        if let Some(value) = value {
            metric::expose_one(out, (name, kind), help, ("", value));
        }
    }
}

fn resident_bytes() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024.0)
}

fn open_descriptors() -> Option<f64> {
    // One of them is the directory's own.
    fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count().saturating_sub(1) as f64)
}

/// Fields 14 and 15 of `stat` (proc(5)), counted behind the name in parentheses, which may hold
/// spaces. Linux shows them in hundredths of a second on every architecture that we run on.
fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, behind_name) = stat.rsplit_once(") ")?;
    let mut fields = behind_name.split(' ').skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / 100.0)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::io::Write;
    use std::net::SocketAddr;
    use std::net::TcpStream;
    use std::sync::atomic::AtomicBool;
    use std::sync::atomic::Ordering;
    use std::thread;

    use crate::observe::Histograms;
    use crate::observe::counters::Verb;
    use crate::observe::histogram::Shelf;

    use super::*;

    /// Serves on a free loopback port, on a thread like the monitor thread.
    fn start(observed: &Arc<Observed>) -> SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("bound");
        let observed = Arc::clone(observed);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let listener = TcpListener::from_std(listener).expect("within a runtime");
                serve(listener, observed, Arc::new(Destinations::default)).await
            })
        });
        address
    }

    /// Status, head and body.
    fn fetch(address: SocketAddr, path: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(address).expect("the server listens");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .expect("the server reads");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("the server answers");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).expect("a status line").parse().expect("a number");
        (status, head.to_ascii_lowercase(), body.to_owned())
    }

    /// A shard's ticker, until `stop`.
    fn tick(shelf: Arc<Shelf>, stop: &AtomicBool) {
        let histograms = Histograms::new(shelf);
        for value in 1..=1000 {
            histograms.record(Stage::Body, value);
        }
        while !stop.load(Ordering::Relaxed) {
            histograms.publish_if_wanted();
            thread::yield_now();
        }
    }

    #[test]
    fn metrics_are_in_the_format_of_prometheus() {
        let observed = Observed::new(2);
        observed.shards[1].metrics.messages_accepted_total.add(7);
        observed.shards[0].metrics.commands_total.add(Verb::Mail, 1);
        observed.shards[1].metrics.commands_total.add(Verb::Mail, 1);
        observed.process.spool_free_bytes.set(123);
        let (status, head, body) = fetch(start(&observed), "/metrics");
        assert_eq!(status, 200);
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
        let lines: Vec<&str> = body.lines().collect();
        let build = format!("ringpost_build_info{{version=\"{VERSION}\"}} 1");
        let rows = [
            "# TYPE ringpost_messages_accepted_total counter",
            "ringpost_messages_accepted_total{shard=\"0\"} 0",
            "ringpost_messages_accepted_total{shard=\"1\"} 7",
            "ringpost_commands_total{verb=\"mail\"} 2",
            "ringpost_spool_free_bytes 123",
            "# TYPE ringpost_open_fds gauge",
            &build,
        ];
        for row in rows {
            assert!(lines.contains(&row), "{row} is missing in\n{body}");
        }
        for name in ["resident_memory_bytes", "open_fds", "cpu_seconds_total", "uptime_seconds"] {
            let start = format!("ringpost_{name} ");
            let value = lines.iter().find_map(|line| line.strip_prefix(&start));
            let value: f64 = value.expect(name).parse().expect("a number");
            assert!(value >= 0.0 && (name != "resident_memory_bytes" || value > 1e6), "{name}");
        }
        check_exposition(&lines);
    }

    /// Each sample belongs to the last HELP and TYPE, and no name comes twice.
    fn check_exposition(lines: &[&str]) {
        let mut names = Vec::new();
        for pair in lines.iter().filter(|line| line.starts_with("# HELP ")) {
            names.push(pair.split(' ').nth(2).expect("a name"));
        }
        let mut distinct = names.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), names.len(), "a name comes twice");
        let mut current = "";
        for line in lines {
            match line.strip_prefix("# ") {
                Some(comment) => current = comment.split(' ').nth(1).expect("a name"),
                None => {
                    let name = line.split(['{', ' ']).next().expect("a name");
                    assert_eq!(name, current, "{line}");
                    let value = line.rsplit(' ').next().expect("a value");
                    assert!(value.parse::<f64>().is_ok(), "{line}");
                }
            }
        }
    }

    #[test]
    fn health_and_readiness_name_their_causes() {
        let observed = Observed::new(1);
        let address = start(&observed);
        assert_eq!(fetch(address, "/health").0, 200, "just started");
        let (status, _, body) = fetch(address, "/ready");
        assert_eq!((status, body.as_str()), (503, "the listeners are not open\n"));
        observed.process.listening.set(1);
        let (status, _, body) = fetch(address, "/ready");
        assert_eq!((status, body.as_str()), (200, "ready\n"));
        observed.process.spool_full.set(1);
        assert_eq!(fetch(address, "/ready").2, "the spool is full\n");
        assert_eq!(fetch(address, "/health").0, 200, "a full spool needs no restart");
        assert_eq!(fetch(address, "/health").2, "ok\n");
        observed.process.quarantine_records.set(3);
        let (status, _, body) = fetch(address, "/health");
        assert!(body.starts_with("degraded\n3 unreadable records"), "{body}");
        assert_eq!(status, 200, "quarantined mail needs no restart");
    }

    #[test]
    fn stats_merge_the_shards_and_name_the_silent() {
        let observed = Observed::new(2);
        observed.shards[0].metrics.connections_total.add(2);
        observed.shards[1].metrics.connections_total.add(3);
        let address = start(&observed);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| tick(Arc::clone(&observed.shards[0].shelf), &stop));
            let (status, _, body) = fetch(address, "/stats");
            let (hgrm_status, _, hgrm) = fetch(address, "/stats/hdr/body.hgrm");
            stop.store(true, Ordering::Relaxed);
            assert_eq!((status, hgrm_status), (200, 200));
            let stats: Value = serde_json::from_str(&body).expect("JSON");
            assert_eq!(stats["version"], VERSION);
            assert_eq!(stats["silent_shards"], json!([1]));
            assert_eq!(stats["counters"]["connections_total"], 5);
            assert_eq!(stats["counters"]["commands_total"]["mail"], 0);
            assert_eq!(stats["shards"][1]["connections_total"], 3);
            assert_eq!(stats["stages"]["body"]["count"], 1000);
            assert_eq!(stats["stages"]["body"]["p99"], 990);
            assert_eq!(stats["stages"]["batch_size"]["unit"], "messages");
            assert!(hgrm.contains("Total count    =         1000"), "{hgrm}");
        });
    }

    #[test]
    fn unknown_paths_and_names_are_answered_with_the_known() {
        let address = start(&Observed::new(1));
        let rows = [("/", "/stats/hdr/NAME"), ("/stats/hdr/no", "accept_to_250: ")];
        for (path, known) in rows {
            let (status, _, body) = fetch(address, path);
            assert_eq!(status, 404, "{path}");
            assert!(body.contains(known), "{path}: {body}");
        }
    }
}
