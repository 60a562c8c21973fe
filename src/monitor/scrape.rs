//! The monitoring requests: metrics, health, readiness, percentiles.
//!
//! Owner:    the monitor thread. `serve` runs on its runtime until it is dropped.
//! Promise:  read-only. However many requests come, a shard copies its histograms at most once per
//!           `FIGURES_AGE_MAX`, in its own ticker; destinations come from its last snapshot.
//! Bounds:   `HISTOGRAM_WAIT_MS` for the shards' answer. `WAITING_MAX` requests may wait for it; the
//!           next gets 503, so that slots remain for /health. Request sizes by axum's defaults,
//!           connections by `connections`. Requests are not authenticated: the listener belongs on
//!           the loopback address or behind a proxy.

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
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::sync::Semaphore;
use tokio::sync::TryAcquireError;
use tokio::time::Instant;
use tokio::time::sleep;

use crate::control::connections::BoundedListener;
use crate::control::connections::Slot;
use crate::control::connections::answering;
use crate::delivery::survey::DestinationsShelf;
use crate::monitor::destinations;
use crate::monitor::metrics;
use crate::monitor::stats;
use crate::observe::Observed;
use crate::observe::Stage;
use crate::observe::histogram::Merged;

/// How long the shards may take to copy their histograms: many ticks of their tickers.
const HISTOGRAM_WAIT_MS: u64 = 1_000;

/// Pause between two checks whether they have.
const HISTOGRAM_LOOK_MS: u64 = 2;

/// Age up to which distributions are used again instead of asking the shards for new ones.
const FIGURES_AGE_MAX: Duration = Duration::from_millis(500);

/// Requests that wait for distributions at a time: a quarter of the connections.
const WAITING_MAX: usize = 16;

/// How long a client may take to send a request, and to read each part of an answer.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How long a connection may last.
const LIFETIME_MAX: Duration = Duration::from_secs(60);

const TEXT: &str = "text/plain; charset=utf-8";
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";
const PATHS: &str = "/metrics\n/health\n/ready\n/stats\n/stats/hdr/NAME\n";

type Answer = (StatusCode, [(HeaderName, &'static str); 1], String);

/// Where each shard publishes its destinations.
pub type Shelves = Vec<Arc<DestinationsShelf>>;

/// What handlers share.
struct Shown {
    observed: Arc<Observed>,
    destinations: Shelves,
    /// The last distributions, and when they were read.
    figures: Mutex<Option<(Instant, Arc<Merged>)>>,
    waiting: Semaphore,
}

/// Answers requests until the future is dropped.
pub async fn serve(
    listener: TcpListener,
    observed: Arc<Observed>,
    destinations: Shelves,
) -> io::Result<()> {
    let listener = BoundedListener::new(listener, SILENCE_MAX, LIFETIME_MAX);
    let (figures, waiting) = (Mutex::default(), Semaphore::new(WAITING_MAX));
    let service = Router::new()
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/stats", get(stats))
        .route("/stats/hdr/{name}", get(hgrm))
        .fallback(unknown)
        .layer(from_fn(answering))
        .with_state(Arc::new(Shown { observed, destinations, figures, waiting }));
    axum::serve(listener, service.into_make_service_with_connect_info::<Slot>()).await
}

async fn metrics(State(shown): State<Arc<Shown>>) -> Answer {
    let Ok(merged) = shown.figures().await else { return busy() };
    let loads = destinations::loads(&shown.destinations);
    answer(StatusCode::OK, EXPOSITION, metrics::page(&shown.observed, &merged, &loads))
}

async fn health(State(shown): State<Arc<Shown>>) -> Answer {
    let observed = &shown.observed;
    let faults = observed.faults(observed.now_ms());
    let warnings = observed.warnings();
    match (faults.is_empty(), warnings.is_empty()) {
        (true, true) => answer(StatusCode::OK, TEXT, "ok\n".to_owned()),
        // Mail is served: a service manager must not restart the server for this.
        (true, false) => {
            answer(StatusCode::OK, TEXT, format!("degraded\n{}\n", warnings.join("\n")))
        }
        (false, _) => answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, faults.join("\n") + "\n"),
    }
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
    let Ok(merged) = shown.figures().await else { return busy() };
    let stats = stats::document(&shown.observed, &merged, &shown.destinations);
    answer(StatusCode::OK, "application/json", format!("{stats:#}\n"))
}

async fn hgrm(State(shown): State<Arc<Shown>>, Path(name): Path<String>) -> Answer {
    let Some(stage) = Stage::from_name(name.strip_suffix(".hgrm").unwrap_or(&name)) else {
        let names: Vec<String> = Stage::ALL
            .iter()
            .map(|stage| format!("{} ({}): {}\n", stage.name(), stage.unit(), stage.help()))
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
    /// The distributions of all shards, at most `FIGURES_AGE_MAX` old; refused if too many requests
    /// already wait for them.
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
    use crate::observe::histogram::Shelf;
    use crate::observe::label::AttemptCategory;
    use crate::observe::label::AttemptOutcome;
    use crate::observe::label::Verb;
    use crate::observe::observed::CertificateExpiry;
    use serde_json::Value;
    use serde_json::json;

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
                serve(listener, observed, Vec::new()).await
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
        let observed = Observed::new(2, 1);
        observed.shards[1].metrics.messages_accepted_total.add(7);
        observed.shards[0].metrics.commands_total.add(Verb::Mail, 1);
        observed.shards[1].metrics.commands_total.add(Verb::Mail, 1);
        observed.process.spool_free_bytes.set(123);
        observed.set_certificates(vec![CertificateExpiry {
            name: "mail.test".into(),
            file: "/m.pem".into(),
            not_after_s: 77,
        }]);
        let (status, head, body) = fetch(start(&observed), "/metrics");
        assert_eq!(status, 200);
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
        let lines: Vec<&str> = body.lines().collect();
        let build = format!("ringpost_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
        let rows = [
            "# TYPE ringpost_messages_accepted_total counter",
            "ringpost_messages_accepted_total{shard=\"0\"} 0",
            "ringpost_messages_accepted_total{shard=\"1\"} 7",
            "ringpost_commands_total{verb=\"mail\"} 2",
            "ringpost_spool_free_bytes 123",
            "ringpost_partition_failed{partition=\"0\"} 0",
            "# TYPE process_open_fds gauge",
            "# TYPE ringpost_accept_seconds histogram",
            "ringpost_accept_seconds_count 0",
            "ringpost_destination_jobs{destination=\"other\",state=\"queued\"} 0",
            "ringpost_certificate_expiry_timestamp_seconds{name=\"mail.test\",file=\"/m.pem\"} 77",
            &build,
        ];
        for row in rows {
            assert!(lines.contains(&row), "{row} is missing in\n{body}");
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
                    let of_histogram = ["_bucket", "_sum", "_count"]
                        .iter()
                        .any(|end| name.strip_suffix(end) == Some(current));
                    assert!(name == current || of_histogram, "{line}");
                    let value = line.rsplit(' ').next().expect("a value");
                    assert!(value.parse::<f64>().is_ok(), "{line}");
                }
            }
        }
    }

    #[test]
    fn health_and_readiness_name_their_causes() {
        let observed = Observed::new(1, 1);
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
        observed.process.spool_quarantine_records.set(3);
        let (status, _, body) = fetch(address, "/health");
        assert!(body.starts_with("degraded\n3 unreadable records"), "{body}");
        assert_eq!(status, 200, "quarantined mail needs no restart");
    }

    #[test]
    fn stats_merge_the_shards_and_name_the_silent() {
        let observed = Observed::new(2, 1);
        observed.shards[0].metrics.connections_total.add(2);
        observed.shards[1].metrics.connections_total.add(3);
        let attempts = &observed.shards[1].metrics.attempts_total;
        attempts.add(AttemptOutcome::Deferred, AttemptCategory::Spam, 2);
        let address = start(&observed);
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| tick(Arc::clone(&observed.shards[0].shelf), &stop));
            let (status, _, body) = fetch(address, "/stats");
            let (hgrm_status, _, hgrm) = fetch(address, "/stats/hdr/body.hgrm");
            stop.store(true, Ordering::Relaxed);
            assert_eq!((status, hgrm_status), (200, 200));
            let stats: Value = serde_json::from_str(&body).expect("JSON");
            assert_eq!(stats["version"], env!("CARGO_PKG_VERSION"));
            assert_eq!(stats["silent_shards"], json!([1]));
            assert_eq!(stats["counters"]["connections_total"], 5);
            assert_eq!(stats["counters"]["commands_total"]["mail"], 0);
            assert_eq!(stats["counters"]["attempts_total"]["deferred"]["spam"], 2);
            assert_eq!(stats["shards"][1]["connections_total"], 3);
            assert_eq!(stats["stages"]["body"]["count"], 1000);
            assert_eq!(stats["stages"]["body"]["p99"], 990);
            assert_eq!(stats["stages"]["commit_batch"]["unit"], "messages");
            assert!(hgrm.contains("Total count    =         1000"), "{hgrm}");
        });
    }

    #[test]
    fn unknown_paths_and_names_are_answered_with_the_known() {
        let address = start(&Observed::new(1, 1));
        let rows = [("/", "/stats/hdr/NAME"), ("/stats/hdr/no", "accept (microseconds): ")];
        for (path, known) in rows {
            let (status, _, body) = fetch(address, path);
            assert_eq!(status, 404, "{path}");
            assert!(body.contains(known), "{path}: {body}");
        }
    }
}
