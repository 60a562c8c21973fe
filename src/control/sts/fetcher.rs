//! The task that fetches policies for all shards.
//!
//! Owner:    a task of the control runtime; one for the process. It waits for nothing but events.
//! Bounds:   see `queue` and `store`; one write of files in progress.
//! Fatal:    a panic in this task ends the process; otherwise mail to domains with MTA-STS would
//!           wait forever. The restart reads the policies from their files.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::task;
use tokio::task::JoinError;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::base::clock::wall_ms;
use crate::control::sts::files;
use crate::control::sts::queue::FetchQueue;
use crate::control::sts::store::StsStore;
use crate::control::sts::web;
use crate::control::sts::web::FetchFault;
use crate::handoff::StsPolicies;
use crate::handoff::lane::Seed;
use crate::handoff::sts;
use crate::handoff::sts::StsRequest;
use crate::handoff::sts::StsWanted;
use crate::net::StsPolicy;
use crate::net::TlsClient;
use crate::net::mta_sts::RETRY_MS;
use crate::net::mta_sts::StsFailed;
use crate::net::mta_sts::StsFetch;
use crate::observe::Observed;
use crate::observe::label::StsOutcome;
use crate::observe::log::Record;

/// How often local failures are logged: each domain with waiting mail meets them once a second.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Pause between a failed write and the next one.
const WRITE_RETRY: Duration = Duration::from_secs(60);

type Fetched = Result<(task::Id, Result<StsPolicy, FetchFault>), JoinError>;
/// The outcome of a write to disk; a failed one names its domains.
type Written = Result<(), (std::io::Error, Vec<Arc<str>>)>;

pub struct StsFetcher {
    store: StsStore,
    requests: Seed<StsRequest>,
    client: Arc<TlsClient>,
    folder: PathBuf,
    observed: Arc<Observed>,
}

impl StsFetcher {
    /// Reads the policies of this spool and publishes them. The texts name the files that cannot be
    /// used.
    pub fn open(
        spool: &Path,
        client: Arc<TlsClient>,
        observed: Arc<Observed>,
    ) -> (StsFetcher, StsPolicies, Vec<String>) {
        let (publisher, requests, policies) = sts::sts();
        let folder = files::folder_of(spool);
        let mut store = StsStore::new(publisher);
        let now_ms = wall_ms();
        let found = files::read(&folder, now_ms);
        for (domain, fetched) in found.policies {
            store.restore(&domain, fetched, now_ms);
        }
        observed.process.sts_policies.set(store.policies() as u64);
        (StsFetcher { store, requests, client, folder, observed }, policies, found.passed_over)
    }

    /// Fetches until the process ends.
    pub async fn run(self) {
        let mut requests = self.requests.settle();
        let mut fetching = Fetching {
            store: self.store,
            client: self.client,
            folder: self.folder,
            observed: self.observed,
            queue: FetchQueue::default(),
            fetches: JoinSet::new(),
            writes: JoinSet::new(),
            write_from: Instant::now(),
            told: None,
        };
        loop {
            fetching.begin_fetches();
            let may_write = fetching.writes.is_empty() && fetching.store.has_unwritten();
            tokio::select! {
                request = requests.receive() => fetching.on_request(request),
                Some(done) = fetching.fetches.join_next_with_id() => fetching.on_fetched(done),
                Some(done) = fetching.writes.join_next() => fetching.on_written(done),
                () = tokio::time::sleep_until(fetching.write_from), if may_write => {
                    fetching.begin_write();
                }
            }
        }
    }
}

struct Fetching {
    store: StsStore,
    client: Arc<TlsClient>,
    folder: PathBuf,
    observed: Arc<Observed>,
    queue: FetchQueue<task::Id>,
    fetches: JoinSet<Result<StsPolicy, FetchFault>>,
    writes: JoinSet<Written>,
    write_from: Instant,
    /// When a local failure was last logged.
    told: Option<Instant>,
}

impl Fetching {
    fn on_request(&mut self, request: StsRequest) {
        match request {
            StsRequest::Used(domain) => self.store.note_used(&domain, wall_ms()),
            StsRequest::Fetch(wanted) => {
                let known = self.store.find(&wanted.domain);
                // Another shard may have asked before.
                let is_news = known.answer(Some(&wanted.id), wall_ms()).fetch != StsFetch::No
                    && !self.queue.knows(&wanted.domain);
                match &wanted.addresses {
                    _ if !is_news => {}
                    Err(fault) => self.on_failure(&wanted, &FetchFault::Dns(*fault)),
                    Ok(_) => {
                        if !self.queue.offer(wanted) {
                            self.count(StsOutcome::NoRoom);
                        }
                    }
                }
            }
        }
    }

    fn begin_fetches(&mut self) {
        let Fetching { queue, fetches, client, .. } = self;
        while queue.start_next(|wanted| {
            let (client, wanted) = (Arc::clone(client), wanted.clone());
            fetches.spawn(async move { web::fetch_policy(&client, &wanted).await }).id()
        }) {}
    }

    fn on_fetched(&mut self, done: Fetched) {
        let (id, result) = match done {
            Ok(done) => done,
            Err(panic) => (panic.id(), Err(FetchFault::Abandoned)),
        };
        let wanted = self.queue.done(&id).expect("the queue knows each fetch from its start");
        match result {
            Ok(policy) => {
                self.count(StsOutcome::Fetched);
                self.store.keep(&wanted.domain, wanted.id, policy, wall_ms());
                self.observed.process.sts_policies.set(self.store.policies() as u64);
            }
            Err(fault) => self.on_failure(&wanted, &fault),
        }
    }

    fn on_failure(&mut self, wanted: &StsWanted, fault: &FetchFault) {
        let domain = &*wanted.domain;
        if fault.is_ours() {
            self.count(StsOutcome::Prevented);
            if self.told.is_some_and(|told| told.elapsed() < TELL_EVERY) {
                return;
            }
            self.told = Some(Instant::now());
        } else {
            self.count(StsOutcome::Failed);
            let now_ms = wall_ms();
            let (id, until_ms) = (wanted.id.clone(), now_ms + RETRY_MS);
            let failed = StsFailed { id, until_ms, result: fault.result() };
            self.store.keep_failure(&wanted.domain, failed, now_ms);
        }
        Record::StsNotFetched { domain, cause: fault }.emit();
    }

    fn begin_write(&mut self) {
        let (folder, changes) = (self.folder.clone(), self.store.take_unwritten());
        self.writes.spawn_blocking(move || {
            files::write(&folder, &changes)
                .map_err(|cause| (cause, changes.into_iter().map(|(domain, _)| domain).collect()))
        });
    }

    fn on_written(&mut self, done: Result<Written, JoinError>) {
        let (cause, domains) = match done {
            Ok(Ok(())) => return,
            Ok(Err(failed)) => failed,
            // The policies are written again when they change.
            Err(panic) => (std::io::Error::other(panic), Vec::new()),
        };
        self.store.put_back(domains);
        self.write_from = Instant::now() + WRITE_RETRY;
        let what =
            format!("MTA-STS policies cannot be written to {}: {cause}", self.folder.display());
        let remedy = "until this is fixed, policies may be fetched again after a restart";
        Record::Warning { what: &what, remedy }.emit();
    }

    fn count(&self, outcome: StsOutcome) {
        self.observed.process.sts_fetches_total.add(outcome, 1);
    }
}
