//! `ringpost serve`: from a config to running shards, and to their orderly end.
//!
//! Order:    the steps of the folder's contract; the end in the reverse order: listeners, sessions,
//!           commit threads, log. Partitions close with the process.
//! Fatal:    before mail is taken, every refusal names its cause, and a remedy where one is known;
//!           the exit code is 1.
//!           After that a failed store, or a disk that hangs at the end, ends the process with exit
//!           code 75; a shard that dies or stands still ends it at once.

use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;
use std::time::Instant;

use crate::base::clock::wall_ms;
use crate::base::limits::CHUNK_BYTES;
use crate::boot::cores;
use crate::boot::cores::CoreChoice;
use crate::boot::cores::Plan;
use crate::boot::host;
use crate::boot::host::Finding;
use crate::boot::host::Host;
use crate::boot::host::Level;
use crate::boot::host::Needs;
use crate::boot::privileges;
use crate::boot::privileges::Account;
use crate::boot::signals;
use crate::boot::signals::Signal;
use crate::boot::sockets;
use crate::boot::sockets::BoundAddress;
use crate::boot::sockets::ShardSockets;
use crate::boot::space::SpaceKeeper;
use crate::boot::space::SpoolWatch;
use crate::boot::table::ShardRow;
use crate::boot::table::StartTable;
use crate::boot::topology::Topology;
use crate::config::Config;
use crate::config::CoreSet;
use crate::config::HostFacts;
use crate::config::LogFormat;
use crate::config::LogOutput;
use crate::config::Partitions;
use crate::config::delivery::relation::DANE_IS_INERT;
use crate::config::delivery::relation::DANE_REMEDY;
use crate::config::delivery::relation::dane_is_inert;
use crate::control::admin::Admin;
use crate::control::admin::AdminParts;
use crate::control::assemble::assemble;
use crate::control::reload::Reloader;
use crate::control::reload::level_of;
use crate::control::sts::StsFetcher;
use crate::control::thread;
use crate::control::thread::ControlParts;
use crate::handoff::Placement;
use crate::handoff::Sender;
use crate::handoff::StsPolicies;
use crate::handoff::mesh;
use crate::inbound::counts::ConnectionCounter;
use crate::inbound::counts::SharedCounts;
use crate::inbound::policy::Policy;
use crate::monitor::thread as monitor;
use crate::monitor::thread::MonitorParts;
use crate::net::CacheBounds;
use crate::net::ResolverSettings;
use crate::net::TlsClient;
use crate::net::TlsClientSettings;
use crate::observe::Observed;
use crate::observe::log;
use crate::observe::log::LogSettings;
use crate::observe::log::Record;
use crate::observe::log::value::Form;
use crate::outbound::survey::DestinationsShelf;
use crate::queue::CommitOptions;
use crate::queue::CommitThread;
use crate::queue::Notice;
use crate::queue::SpaceWatch;
use crate::queue::Spool;
use crate::queue::SpoolOptions;
use crate::queue::notice::Loudness;
use crate::queue::partitions_in;
use crate::queue::pauses::Pauses;
use crate::queue::points;
use crate::route;
use crate::route::DeliveryPolicy;
use crate::rt;
use crate::rt::ShardSpec;
use crate::rt::ShardThread;
use crate::rt::Watchdog;
use crate::shard;
use crate::shard::CommandSender;
use crate::shard::Order;
use crate::shard::ShardSeed;
use crate::shard::order;
use crate::shard::run::DeliverySeed;

/// A store that failed: a restart may find it well, so service managers should try.
const EXIT_STORE_FAILED: u8 = 75;
/// How often the main thread looks at flags between signals.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A shard that does not tick for so long will not any more.
const STALL_MAX: Duration = Duration::from_secs(30);
/// Tasks of a drained shard have nothing left to wait for.
const TASKS_END_MAX: Duration = Duration::from_secs(1);
/// Commit threads that have not ended by then wait for a disk that hangs.
const STORE_END_MAX: Duration = Duration::from_secs(20);
const LOG_END_MAX: Duration = Duration::from_secs(2);
/// Descriptors of the store, the log and the control plane.
const OPEN_FILES_BESIDE: u64 = 4096;

/// What `serve` is given.
pub struct ServeOptions {
    pub config: Config,
    pub file: Option<PathBuf>,
    pub host: HostFacts,
    pub warnings: Vec<Finding>,
}

/// Serves until told to end.
pub fn serve(options: ServeOptions) -> ExitCode {
    points::arm();
    match start(options) {
        Ok(running) => running.until_told(),
        Err(faults) => {
            for fault in faults {
                eprintln!("ringpost: {fault}");
                // Before the log was opened this is nothing.
                Record::StartRefused { cause: &fault.replace("\n  ", "; ") }.emit();
            }
            log::flush(LOG_END_MAX);
            ExitCode::FAILURE
        }
    }
}

fn start(options: ServeOptions) -> Result<Running, Vec<String>> {
    let began = Instant::now();
    let ServeOptions { config, file, host: facts, warnings } = options;
    let blocked = signals::block().map_err(|cause| vec![format!("signals: {cause}")])?;
    let (plan, mut findings) = plan(&config, warnings)?;
    let mut bound = sockets::bind(&config, plan.shards.len())?;
    let user = settle_privileges(&config)?;
    start_log(&config)?;
    let plan = fit_plan(plan, partitions_of(&config)?, &mut findings);
    bound.listen(plan.shards.len())?;
    let assembled = assemble(&config)?;
    let told = assembled.warnings.iter();
    findings.extend(told.map(|(what, remedy)| warning(what.clone(), remedy)));
    if !config.queue.sync {
        let what = "queue.sync is off: a power cut loses mail that was answered with 250";
        findings.push(warning(what.to_owned(), "set queue.sync = true"));
    }
    keep_off_shards(&plan);
    let failed = Arc::new(AtomicBool::new(false));
    let spool = Arc::new(open_spool(&config, plan.shards.len())?);
    let observed = Observed::new(plan.shards.len() as u16, spool.partitions().len());
    observed.set_certificates(assembled.certificates());
    let placement = Placement::deal(spool.partitions().len(), plan.shards.len());
    let set_aside = spool.recovered().iter().map(|found| found.quarantined).sum();
    observed.shards[0].metrics.quarantined_total.add(set_aside);
    let delivery = delivery_parts(&config, plan.shards.len(), assembled.delivery, &mut findings)?;
    let pauses = Arc::new(read_pauses(spool.path(), &mut findings));
    let (sts, policies) = open_policies(spool.path(), &delivery.tls, &observed, &mut findings);
    print_table(&config, &user, (&plan, &placement), (&bound.addresses, &findings));

    let commits = start_commits(&spool, &plan, &placement, &failed)?;
    let space = SpaceKeeper::start(&spool, &observed, &config.queue);
    let signals = signals::listen(blocked).map_err(|cause| vec![format!("signals: {cause}")])?;
    let listened = bound.addresses.clone();
    let seeds = Seeds {
        config: &config,
        plan: &plan,
        placement: &placement,
        commits: &commits,
        spool: &spool,
        delivery: &delivery,
        pauses: &pauses,
        policies: &policies,
    };
    let Started { threads: shards, commands, orders, destinations } =
        start_shards(seeds, bound.shards, Arc::new(assembled.policy), (&observed, &space.watch()))?;
    let heartbeats = shards.iter().map(ShardThread::heartbeat).collect();
    let watchdog = Watchdog::start(heartbeats, STALL_MAX, |shard| {
        tell_stall(shard);
        crate::base::fault::end_process(format_args!("shard {shard} stands still"))
    });
    thread::start(ControlParts {
        socket: config.control.socket.clone(),
        admin: Admin::new(AdminParts {
            spool: Arc::clone(&spool),
            shards: orders,
            placement,
            pauses,
            observed: Arc::clone(&observed),
        }),
        sts,
        on_start: keep_off(&plan),
    })
    .map_err(|cause| vec![format!("control: {cause}")])?;
    if let Some(listener) = bound.monitor {
        monitor::start(MonitorParts {
            listener,
            observed: Arc::clone(&observed),
            destinations,
            on_start: keep_off(&plan),
        })
        .map_err(|cause| vec![format!("monitor: {cause}")])?;
    }
    announce(&listened, &spool, shards.len());
    let watch = space.keep_looking(&config.queue);
    let watch = watch.map_err(|cause| vec![format!("no thread to watch the spool: {cause}")])?;
    observed.process.listening.set(1);
    Ok(Running {
        reloader: Reloader { file, host: facts, config, shards: commands, observed },
        signals,
        shards,
        commits,
        spool,
        watch,
        failed,
        began,
        _watchdog: watchdog.ok(),
    })
}

/// Written before the process ends, which it does without waiting for anything else.
fn tell_stall(stalled_shard: &str) {
    Record::Watchdog { stalled_shard, silent_ms: STALL_MAX.as_millis() as u64 }.emit();
    log::flush(LOG_END_MAX);
}

fn warning(what: String, remedy: &str) -> Finding {
    Finding { level: Level::Warn, what, remedy: remedy.to_owned() }
}

/// `cores` of the config.
pub fn choice_of(cores: &CoreSet) -> CoreChoice {
    match cores {
        CoreSet::Auto => CoreChoice::Auto,
        CoreSet::List(list) => CoreChoice::List(list.clone()),
        CoreSet::Numa(node) => CoreChoice::Numa(*node),
    }
}

/// What the config asks of the machine.
pub fn needs_of(config: &Config, plan: &Plan) -> Needs {
    Needs {
        shards: plan.shards.len() as u64,
        open_files: config.limits.connections as u64 + OPEN_FILES_BESIDE,
        backlog: u64::from(sockets::BACKLOG),
        becomes_user: config.server.user.is_some(),
    }
}

/// What the machine grants and who runs where.
fn plan(config: &Config, warnings: Vec<Finding>) -> Result<(Plan, Vec<Finding>), Vec<String>> {
    let root = Path::new("/");
    let choice = choice_of(&config.server.cores);
    let plan = Plan::new(&choice, &Topology::read(root)).map_err(|f| vec![f.to_string()])?;
    let needs = needs_of(config, &plan);
    host::raise_limits(&needs);
    let mut findings = warnings;
    findings.extend(host::findings(&Host::read(root), &needs));
    let refusals = findings.iter().filter(|finding| finding.level == Level::Refuse);
    let refusals: Vec<String> =
        refusals.map(|finding| format!("{}\n  {}", finding.what, finding.remedy)).collect();
    if refusals.is_empty() { Ok((plan, findings)) } else { Err(refusals) }
}

/// Becomes the configured user; what is ours on disk is made and given to it first.
fn settle_privileges(config: &Config) -> Result<String, Vec<String>> {
    let told = |fault: privileges::PrivilegeFault| vec![fault.to_string()];
    let server = &config.server;
    let account = match (&server.user, privileges::runs_as_root()) {
        (Some(user), true) => Some(Account::find(user, server.group.as_deref()).map_err(told)?),
        _ => None,
    };
    privileges::own_folder(&server.spool, account.as_ref()).map_err(told)?;
    match &account {
        Some(account) => privileges::drop_to(account).map_err(told)?,
        None => privileges::lock_down().map_err(told)?,
    }
    let user = match account {
        Some(account) => account.user,
        None if privileges::runs_as_root() => "root".to_owned(),
        None => "the caller".to_owned(),
    };
    privileges::check_writable(&server.spool, &user).map_err(told)?;
    Ok(user)
}

fn start_log(config: &Config) -> Result<(), Vec<String>> {
    log::start(&LogSettings {
        level: level_of(config.log.level),
        form: match config.log.format {
            LogFormat::Text => Form::Text,
            LogFormat::Json => Form::Json,
        },
        file: match &config.log.output {
            LogOutput::Stdout => None,
            LogOutput::File(path) => Some(path.clone()),
        },
    })
    .map_err(|fault| vec![fault.to_string()])
}

/// Threads that the store starts inherit where the main thread may run.
fn keep_off_shards(plan: &Plan) {
    pin_softly(&plan.control_cpus());
}

/// As `keep_off_shards`, on a thread that is yet to start.
fn keep_off(plan: &Plan) -> Box<dyn FnOnce() + Send> {
    let cpus = plan.control_cpus();
    Box::new(move || pin_softly(&cpus))
}

/// Where a thread runs is a matter of speed; a kernel that refuses costs no mail.
fn pin_softly(cpus: &[usize]) {
    if let Err(fault) = cores::keep_current_thread_on(cpus) {
        Record::Warning { what: &fault.to_string(), remedy: "check the CPU affinity" }.emit();
    }
}

fn open_spool(config: &Config, shards: usize) -> Result<Spool, Vec<String>> {
    let mut options = SpoolOptions::new(&config.server.spool, wall_ms());
    options.partitions = match config.queue.partitions {
        Partitions::Auto => None,
        Partitions::Count(count) => Some(count as u8),
    };
    options.partitions_new = shards.clamp(1, crate::base::id::PARTITIONS_MAX) as u8;
    options.memory_bytes = config.queue.memory as usize;
    options.sync = config.queue.sync;
    options.on_notice = Arc::new(|notice| tell(&notice));
    let began = Instant::now();
    let spool =
        Spool::open(options).map_err(|fault| vec![format!("{fault}\n  {}", fault.remedy())])?;
    for (partition, recovered) in spool.partitions().iter().zip(spool.recovered()) {
        Record::Recovered {
            partition: partition.id(),
            messages: partition.messages(),
            swept_streams: recovered.swept,
            ms: began.elapsed().as_millis() as u64,
        }
        .emit();
    }
    Ok(spool)
}

fn tell(notice: &Notice) {
    match notice {
        Notice::Quarantined { partition, key, why, .. } => {
            Record::Quarantined { partition: *partition, key, cause: why, bytes: 0 }.emit();
        }
        Notice::Store { partition, loudness: Loudness::Warn, line } => {
            Record::Store { partition: *partition, line }.emit();
        }
        other if other.loudness() == Loudness::Error => {
            let what = other.to_string();
            Record::StoreDamaged { partition: other.partition(), what: &what }.emit();
        }
        other => {
            let what = other.to_string();
            Record::Warning { what: &what, remedy: "see `ringpost queue stats`" }.emit();
        }
    }
}

/// Partitions of the spool there is, or of the one to be made when the config says so.
fn partitions_of(config: &Config) -> Result<Option<usize>, Vec<String>> {
    let found = partitions_in(&config.server.spool)
        .map_err(|fault| vec![format!("{fault}\n  {}", fault.remedy())])?;
    Ok(match (found, config.queue.partitions) {
        (Some(found), _) => Some(found as usize),
        (None, Partitions::Count(count)) => Some(count),
        (None, Partitions::Auto) => None,
    })
}

/// A shard needs a partition to keep mail in; a spool made on a smaller machine has fewer. A new one
/// has one for each shard.
fn fit_plan(mut plan: Plan, partitions: Option<usize>, findings: &mut Vec<Finding>) -> Plan {
    let Some(partitions) = partitions else { return plan };
    if plan.shards.len() > partitions {
        let what = format!(
            "the spool has {partitions} partitions, so {partitions} of {} cores run shards",
            plan.shards.len(),
        );
        let remedy = "a new spool gets a partition for each core; drain this one and start anew";
        findings.push(warning(what, remedy));
        plan.keep_shards(partitions);
    }
    plan
}

/// What operators have paused stays so; who starts the server is told.
fn read_pauses(folder: &Path, findings: &mut Vec<Finding>) -> Pauses {
    let (pauses, wrong) = Pauses::read(folder);
    findings.extend(wrong.map(|what| warning(what, "pause anew what must get no mail")));
    let names = pauses.names();
    if !names.is_empty() {
        let what = format!("paused by an operator: {}", names.join(", "));
        findings.push(warning(what, "see `ringpost destination list`"));
    }
    pauses
}

/// The MTA-STS policies of earlier runs hold on.
fn open_policies(
    spool: &Path,
    tls: &Arc<TlsClient>,
    observed: &Arc<Observed>,
    findings: &mut Vec<Finding>,
) -> (StsFetcher, StsPolicies) {
    let (fetcher, policies, passed_over) =
        StsFetcher::open(spool, Arc::clone(tls), Arc::clone(observed));
    if let Some(first) = passed_over.first() {
        let count = passed_over.len();
        let what = format!("{count} MTA-STS policies on disk cannot be used, the first: {first}");
        findings.push(warning(what, "they are fetched again; remove the files"));
    }
    (fetcher, policies)
}

fn print_table(
    config: &Config,
    user: &str,
    (plan, placement): (&Plan, &Placement),
    (addresses, findings): (&[BoundAddress], &[Finding]),
) {
    let listeners: Vec<String> = addresses
        .iter()
        .map(|bound| match bound.tls {
            "none" => format!("{} {}", bound.address, bound.protocol),
            tls => format!("{} {} {tls}", bound.address, bound.protocol),
        })
        .collect();
    let rows: Vec<ShardRow> = plan
        .shards
        .iter()
        .map(|place| ShardRow {
            place: *place,
            partitions: placement.of_shard(place.shard).to_vec(),
            listeners: listeners.clone(),
        })
        .collect();
    let table = StartTable {
        version: env!("CARGO_PKG_VERSION"),
        hostname: config.server.hostname.as_str(),
        spool: &config.server.spool.display().to_string(),
        user,
        shards: &rows,
        spare: &plan.spare,
        findings,
    };
    // The log may be JSON on stdout; the table is for the person who started us.
    eprint!("{table}");
}

fn announce(listened: &[BoundAddress], spool: &Spool, shards: usize) {
    for bound in listened {
        let BoundAddress { address, protocol, tls } = *bound;
        Record::Listening { address, protocol, tls }.emit();
    }
    let version = env!("CARGO_PKG_VERSION");
    Record::Started { version, shards, partitions: spool.partitions().len() }.emit();
}

fn start_commits(
    spool: &Spool,
    plan: &Plan,
    placement: &Placement,
    failed: &Arc<AtomicBool>,
) -> Result<Vec<CommitThread>, Vec<String>> {
    let mut commits = Vec::new();
    for partition in spool.partitions() {
        let home = plan
            .shards
            .iter()
            .find(|place| placement.of_shard(place.shard).contains(&partition.id()));
        let cpus = home.map(|place| plan.commit_cpus(place.node)).unwrap_or_default();
        let failed = Arc::clone(failed);
        let options = CommitOptions {
            on_start: Box::new(move || pin_softly(&cpus)),
            on_fatal: Arc::new(move |partition, cause| {
                failed.store(true, Ordering::Release);
                let action = "it takes no more mail; the process ends for a clean restart";
                Record::CommitFailed { partition, cause: &cause, action }.emit();
            }),
        };
        let commit = CommitThread::start(Arc::clone(partition), options);
        commits.push(commit.map_err(|cause| vec![format!("commit thread: {cause}")])?);
    }
    Ok(commits)
}

struct Seeds<'a> {
    config: &'a Config,
    plan: &'a Plan,
    placement: &'a Placement,
    commits: &'a [CommitThread],
    spool: &'a Spool,
    delivery: &'a DeliveryParts,
    pauses: &'a Pauses,
    policies: &'a StsPolicies,
}

/// What all shards deliver by.
struct DeliveryParts {
    policy: Arc<DeliveryPolicy>,
    resolver: ResolverSettings,
    tls: Arc<TlsClient>,
}

/// Shards that run, and the ways to them; all in the order of the shards.
struct Started {
    threads: Vec<ShardThread>,
    commands: Vec<CommandSender>,
    orders: Vec<Sender<Order>>,
    destinations: Vec<Arc<DestinationsShelf>>,
}

fn start_shards(
    seeds: Seeds<'_>,
    sockets: Vec<ShardSockets>,
    policy: Arc<Policy>,
    (observed, space): (&Arc<Observed>, &Arc<SpaceWatch>),
) -> Result<Started, Vec<String>> {
    let Seeds { config, plan, placement, commits, spool, delivery, pauses, policies } = seeds;
    let mut meshes = mesh::weave(plan.shards.len()).into_iter();
    let handing_over = Arc::new(AtomicUsize::new(plan.shards.len()));
    let counts = SharedCounts::new(plan.shards.len());
    let body_memory = config.limits.body_memory.max(config_floor()) as usize;
    let chunks_max = (body_memory / CHUNK_BYTES / plan.shards.len()).max(CHUNKS_PER_SHARD_MIN);
    let mut threads = Vec::new();
    let (mut commands, mut orders) = (Vec::new(), Vec::new());
    let destinations: Vec<Arc<DestinationsShelf>> =
        plan.shards.iter().map(|_| Arc::default()).collect();
    for (place, sockets) in plan.shards.iter().zip(sockets) {
        let (command_sender, order_sender, inbox) = order::inbox();
        let homes = placement.of_shard(place.shard);
        let Some(mesh) = meshes.next() else { break };
        let seed = ShardSeed {
            shard: place.shard,
            sockets,
            partitions: homes.iter().map(|id| commits[id.0 as usize].handle()).collect(),
            stores: homes
                .iter()
                .filter_map(|id| spool.partitions().iter().find(|one| one.id() == *id).cloned())
                .collect(),
            policy: Arc::clone(&policy),
            delivery: DeliverySeed {
                policy: Arc::clone(&delivery.policy),
                mesh,
                resolver: delivery.resolver.clone(),
                tls: Arc::clone(&delivery.tls),
                sts: policies.clone(),
                hostname: config.server.hostname.as_str().into(),
                shards: plan.shards.len(),
                paused: pauses.names(),
                handing_over: Arc::clone(&handing_over),
            },
            chunks_max,
            counter: ConnectionCounter::new(Arc::clone(&counts), place.shard.0 as usize),
            space: Arc::clone(space),
            observed: Arc::clone(&observed.shards[place.shard.0 as usize]),
            inbox,
            destinations: Arc::clone(&destinations[place.shard.0 as usize]),
        };
        let (shard, node, spans) = (place.shard, place.node, plan.spans_nodes());
        let mut spec = ShardSpec::new(format!("shard-{shard}"), Some(place.cpu));
        // The shard drains by itself; what is left then are tasks without a session.
        spec.drain_max = TASKS_END_MAX;
        let thread = rt::start(spec, move || async move {
            if spans {
                cores::prefer_memory_of(node);
            }
            log::set_shard(shard);
            shard::run(seed).await;
        });
        threads.push(thread.map_err(|fault| vec![format!("{fault}; {}", fault.remedy())])?);
        commands.push(command_sender);
        orders.push(order_sender);
    }
    Ok(Started { threads, commands, orders, destinations })
}

/// Name servers and authorities: what delivery reads from the machine.
fn delivery_parts(
    config: &Config,
    shards: usize,
    policy: DeliveryPolicy,
    findings: &mut Vec<Finding>,
) -> Result<DeliveryParts, Vec<String>> {
    let resolver = resolver_settings(&policy.resolver, shards, || {
        std::fs::read_to_string(RESOLV_CONF).unwrap_or_default()
    });
    // Where the key is written, the config has warned of it.
    if dane_is_inert(config) && !findings.iter().any(|one| one.what.contains(DANE_IS_INERT)) {
        let what = format!("delivery.dane {DANE_IS_INERT}");
        findings.push(Finding { level: Level::Info, what, remedy: DANE_REMEDY.to_owned() });
    }
    let roots = config.delivery.tls_roots.clone();
    let tls = TlsClient::build(&TlsClientSettings { roots, ..TlsClientSettings::default() })
        .map_err(|problems| problems.0.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let told = tls.warnings().iter().map(ToString::to_string);
    findings.extend(told.map(|what| warning(what, "set delivery.tls_roots")));
    Ok(DeliveryParts { policy: Arc::new(policy), resolver, tls })
}

/// How each shard's resolver asks, with its part of the cache.
fn resolver_settings(
    wanted: &route::ResolverSettings,
    shards: usize,
    resolv_conf: impl FnOnce() -> String,
) -> ResolverSettings {
    let asked = match wanted.servers.is_empty() {
        true => ResolverSettings::from_resolv_conf(&resolv_conf()),
        false => ResolverSettings { servers: wanted.servers.clone(), ..Default::default() },
    };
    ResolverSettings {
        timeout: wanted.timeout,
        attempts: wanted.attempts as u32,
        cache: CacheBounds {
            entries: wanted.cache_entries.div_ceil(shards),
            bytes: wanted.cache_bytes / shards,
        },
        trust_ad: wanted.trust_ad,
        ..asked
    }
}

/// Where the machine names its name servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Writes what waits and ends the commit threads; false when a disk hangs.
fn stop_within(commits: Vec<CommitThread>, limit: Duration) -> bool {
    let (done, ended) = std::sync::mpsc::channel();
    let stopping = std::thread::Builder::new().name("stopping".to_owned()).spawn(move || {
        commits.into_iter().for_each(CommitThread::stop);
        // Nobody listens any more when it took too long.
        let _ = done.send(());
    });
    stopping.is_ok() && ended.recv_timeout(limit).is_ok()
}

/// A shard can move one body with fewer chunks, but not two.
const CHUNKS_PER_SHARD_MIN: usize = 16;

fn config_floor() -> u64 {
    crate::config::receiving::BODY_MEMORY_MIN
}

/// Everything that runs.
struct Running {
    reloader: Reloader,
    signals: Receiver<Signal>,
    shards: Vec<ShardThread>,
    commits: Vec<CommitThread>,
    spool: Arc<Spool>,
    watch: SpoolWatch,
    failed: Arc<AtomicBool>,
    began: Instant,
    _watchdog: Option<Watchdog>,
}

impl Running {
    fn until_told(mut self) -> ExitCode {
        loop {
            // A commit thread sets the flag; a reader that meets damage only notes it.
            if self.note_failures() || self.failed.load(Ordering::Acquire) {
                return self.end(EXIT_STORE_FAILED);
            }
            match self.signals.recv_timeout(LOOK_EVERY) {
                Ok(Signal::Hup) => {
                    self.reloader.reload();
                    self.watch.replace_config(&self.reloader.config.queue);
                }
                Ok(Signal::Usr1) => log::reopen(),
                Ok(Signal::Term | Signal::Int) => return self.end(0),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.end(1),
            }
        }
    }

    /// Shows which partitions have failed, and answers whether any has.
    fn note_failures(&self) -> bool {
        let mut any = false;
        for partition in self.spool.partitions() {
            let has_failed = partition.failure().is_some();
            let metrics = &self.reloader.observed.partitions[usize::from(partition.id().0)];
            metrics.partition_failed.set(u64::from(has_failed));
            any |= has_failed;
        }
        any
    }

    fn end(self, code: u8) -> ExitCode {
        let observed = &self.reloader.observed;
        observed.process.draining.set(1);
        let sessions =
            observed.shards.iter().map(|shard| shard.metrics.connections_open.value()).sum();
        Record::Draining { sessions }.emit();
        let limit = self.reloader.config.server.shutdown_timeout;
        for shard in &self.reloader.shards {
            // Signals end a process once, and a place is kept for this.
            let taken = shard.drain(limit);
            debug_assert!(taken, "a shard is told once to end");
        }
        for shard in self.shards {
            if let Err(fault) = shard.join() {
                Record::Warning { what: &fault.to_string(), remedy: "report this" }.emit();
            }
        }
        if !self.watch.stop(STORE_END_MAX) || !stop_within(self.commits, STORE_END_MAX) {
            eprintln!("ringpost: the disk does not answer; ending without it, a restart recovers");
            log::flush(LOG_END_MAX);
            std::process::exit(i32::from(EXIT_STORE_FAILED));
        }
        let seconds = self.began.elapsed().as_secs();
        Record::Stopped { seconds, exit: i32::from(code) }.emit();
        log::flush(LOG_END_MAX);
        ExitCode::from(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::boot::alone;
    use crate::config::load;
    use crate::control::delivery;
    use crate::control::delivery::Secrets;
    use crate::observe::log::Level;

    #[test]
    fn each_shard_has_its_part_of_the_resolver_cache() {
        let host =
            HostFacts { hostname: "mx.test".to_owned(), ports_from: 1024, ..HostFacts::default() };
        let text = "[resolver]\ncache_entries = 1000\ncache_memory = '10MiB'\ntimeout = '3s'\n";
        let config = load(text, "f", &host).expect("it is good").config;
        let policy = delivery::policy(&config, Secrets::Withhold).expect("it is good");
        let wanted = policy.resolver;
        let settings = resolver_settings(&wanted, 3, || "nameserver 192.0.2.53\n".to_owned());
        assert_eq!(settings.cache, CacheBounds { entries: 334, bytes: (10 << 20) / 3 });
        assert_eq!(settings.servers, ["192.0.2.53:53".parse().expect("an address")]);
        assert_eq!(settings.timeout, Duration::from_secs(3), "the file wins");
    }

    #[test]
    fn a_stall_is_in_the_log_before_the_end() {
        let name = "boot::run::tests::a_stall_is_in_the_log_before_the_end";
        let out = alone::run(name, || {
            let settings = LogSettings { level: Level::Info, form: Form::Json, file: None };
            log::start(&settings).expect("it starts");
            tell_stall("shard-3");
            // As `end_process`: nothing that was not written by now will be.
            std::process::abort();
        });
        let text = String::from_utf8_lossy(&out.stdout);
        let line = text.lines().find(|line| line.contains("watchdog")).expect("it is told");
        assert!(line.contains(r#""stalled_shard":"shard-3","silent_ms":30000"#), "{line}");
    }
}
