//! Starts the shards, each with its lanes, its partitions and its share of the memory.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use crate::base::limits::CHUNK_BYTES;
use crate::boot::affinity;
use crate::boot::check::Finding;
use crate::boot::check::warning;
use crate::boot::cores::Plan;
use crate::boot::sockets::ShardSockets;
use crate::config::Config;
use crate::config::ResolverConfig;
use crate::config::receiving::BODY_MEMORY_MIN;
use crate::control::sts::StsFetcher;
use crate::delivery::capacity::Gate;
use crate::delivery::flow_hash::FlowHasher;
use crate::delivery::limit_file::LimitFile;
use crate::delivery::survey::DestinationsShelf;
use crate::handoff::Placement;
use crate::handoff::Sender;
use crate::handoff::StsPolicies;
use crate::handoff::mesh;
use crate::inbound::counts::ConnectionCounter;
use crate::inbound::counts::SharedCounts;
use crate::inbound::policy::Policy;
use crate::net::CacheBounds;
use crate::net::ResolverSettings;
use crate::net::TlsClient;
use crate::net::TlsClientSettings;
use crate::net::resolver::name_servers;
use crate::observe::Observed;
use crate::observe::log;
use crate::observe::log::Record;
use crate::queue::CommitThread;
use crate::queue::Partition;
use crate::queue::SpaceWatch;
use crate::queue::Spool;
use crate::queue::admin::pauses::Pauses;
use crate::route::DeliveryPolicy;
use crate::rt;
use crate::rt::ShardSpec;
use crate::rt::ShardThread;
use crate::shard;
use crate::shard::CommandSender;
use crate::shard::ShardRequest;
use crate::shard::ShardSeed;
use crate::shard::delivering::DeliverySeed;
use crate::shard::inbox;
use crate::submit::gateway;

/// How long the tasks of a drained shard may take to end; none of them waits for anything.
const TASKS_END_MAX: Duration = Duration::from_secs(1);

/// Fewest chunks of a shard: enough to move one body, but not two.
const CHUNKS_PER_SHARD_MIN: usize = 16;

/// The file in which the machine names its name servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";

pub(super) struct Seeds<'a> {
    pub(super) config: &'a Config,
    pub(super) plan: &'a Plan,
    pub(super) placement: &'a Placement,
    pub(super) commits: &'a [CommitThread],
    pub(super) spool: &'a Spool,
    pub(super) delivery: &'a DeliveryParts,
    pub(super) pauses: &'a Pauses,
    pub(super) policies: &'a StsPolicies,
    pub(super) limits: &'a LimitFile,
}

/// What all shards need for delivery.
pub(super) struct DeliveryParts {
    pub(super) policy: Arc<DeliveryPolicy>,
    pub(super) resolver: ResolverSettings,
    pub(super) tls: Arc<TlsClient>,
}

/// The running shards and the lanes into them, all in the order of the shards.
pub(super) struct Started {
    pub(super) threads: Vec<ShardThread>,
    pub(super) commands: Vec<CommandSender>,
    pub(super) requests: Vec<Sender<ShardRequest>>,
    pub(super) destinations: Vec<Arc<DestinationsShelf>>,
}

pub(super) fn start_shards(
    seeds: Seeds<'_>,
    sockets: Vec<ShardSockets>,
    policy: Arc<Policy>,
    (observed, space): (&Arc<Observed>, &Arc<SpaceWatch>),
) -> Result<Started, Vec<String>> {
    let Seeds { config, plan, placement, commits, spool, delivery, pauses, policies, limits } =
        seeds;
    let mut meshes = mesh::connect(plan.shards.len()).into_iter();
    // The gateway itself is for ways in on other threads; SMTP submits on its own shard.
    let (_gateway, submissions) = gateway(placement.clone());
    let mut submissions = submissions.into_iter();
    let handing_over = Arc::new(AtomicUsize::new(plan.shards.len()));
    let gate = Arc::new(Gate::new(delivery.policy.connections_max));
    let hasher = FlowHasher::new(spool.key().into());
    let mut partitions = spool.partitions().to_vec();
    partitions.sort_by_key(|one| one.id());
    let partitions: Arc<[Arc<Partition>]> = partitions.into();
    let counts = SharedCounts::new(plan.shards.len());
    let body_memory = config.limits.body_memory.max(BODY_MEMORY_MIN) as usize;
    let chunks_max = (body_memory / CHUNK_BYTES / plan.shards.len()).max(CHUNKS_PER_SHARD_MIN);
    let mut threads = Vec::new();
    let (mut commands, mut requests) = (Vec::new(), Vec::new());
    let destinations: Vec<Arc<DestinationsShelf>> =
        plan.shards.iter().map(|_| Arc::default()).collect();
    for (place, sockets) in plan.shards.iter().zip(sockets) {
        let (command_sender, request_sender, inbox) = inbox::inbox();
        let homes = placement.of_shard(place.shard);
        let (Some(mesh), Some(submissions)) = (meshes.next(), submissions.next()) else { break };
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
                partitions: Arc::clone(&partitions),
                gate: Arc::clone(&gate),
                hasher,
                paused: pauses.names(),
                saver: limits.saver(),
                sent_before: Arc::clone(&limits.sent_before),
                handing_over: Arc::clone(&handing_over),
            },
            chunks_max,
            counter: ConnectionCounter::new(Arc::clone(&counts), place.shard.0 as usize),
            space: Arc::clone(space),
            observed: Arc::clone(&observed.shards[place.shard.0 as usize]),
            inbox,
            submissions,
            destinations: Arc::clone(&destinations[place.shard.0 as usize]),
        };
        let (shard, node, spans) = (place.shard, place.node, plan.spans_nodes());
        let mut spec = ShardSpec::new(format!("shard-{shard}"), Some(place.cpu));
        // The shard drains before this limit starts; the remaining tasks have no session.
        spec.drain_max = TASKS_END_MAX;
        let thread = rt::start(spec, move || async move {
            if spans {
                affinity::prefer_memory_of(node);
            }
            log::set_shard(shard);
            shard::run(seed).await;
        });
        threads.push(thread.map_err(|fault| vec![format!("{fault}; {}", fault.remedy())])?);
        commands.push(command_sender);
        requests.push(request_sender);
    }
    Ok(Started { threads, commands, requests, destinations })
}

/// What delivery takes from the machine: name servers and trusted CA certificates.
pub(super) fn delivery_parts(
    config: &Config,
    shards: usize,
    policy: DeliveryPolicy,
    findings: &mut Vec<Finding>,
) -> Result<DeliveryParts, Vec<String>> {
    let resolver = resolver_settings(&config.resolver, shards, || {
        std::fs::read_to_string(RESOLV_CONF).unwrap_or_default()
    });
    let roots = config.delivery.tls_roots.clone();
    let tls = TlsClient::build(&TlsClientSettings { roots, ..TlsClientSettings::default() })
        .map_err(|problems| problems.0.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let told = tls.warnings().iter().map(ToString::to_string);
    findings.extend(told.map(|what| warning(what, "set delivery.tls_roots")));
    Ok(DeliveryParts { policy: Arc::new(policy), resolver, tls })
}

/// The resolver settings of one shard: the name servers found, and a share of the cache.
fn resolver_settings(
    config: &ResolverConfig,
    shards: usize,
    resolv_conf: impl FnOnce() -> String,
) -> ResolverSettings {
    ResolverSettings {
        servers: match config.servers.is_empty() {
            true => name_servers(&resolv_conf()),
            false => config.servers.iter().map(|server| server.0).collect(),
        },
        timeout: config.timeout,
        attempts: config.attempts,
        cache: CacheBounds {
            entries: config.cache_entries.div_ceil(shards),
            bytes: config.cache_memory as usize / shards,
        },
        trust_ad: config.trust_ad,
        ..ResolverSettings::default()
    }
}

/// Reads what was sent under rates, and starts the thread that writes it.
pub(super) fn open_limits(
    spool: &Path,
    findings: &mut Vec<Finding>,
) -> Result<LimitFile, Vec<String>> {
    let failed = |cause: &std::io::Error| {
        let what = format!("the file `limits` of the spool cannot be written: {cause}");
        let remedy = "until it can be, mail under rates per minute, hour or day waits";
        Record::Warning { what: &what, remedy }.emit();
    };
    let (file, wrong) =
        LimitFile::open(spool, failed).map_err(|cause| vec![format!("limits: {cause}")])?;
    let remedy = "if rates matter today, lower them for the time being";
    findings.extend(wrong.map(|what| warning(what, remedy)));
    Ok(file)
}

/// Loads the MTA-STS policies that earlier runs stored.
pub(super) fn open_policies(
    spool: &Path,
    tls: &Arc<TlsClient>,
    observed: &Arc<Observed>,
    findings: &mut Vec<Finding>,
) -> (StsFetcher, StsPolicies) {
    let (fetcher, policies, passed_over) =
        StsFetcher::open(spool, Arc::clone(tls), Arc::clone(observed));
    if let Some(first) = passed_over.first() {
        let count = passed_over.len();
        let what = format!("{count} stored MTA-STS policies cannot be read, the first: {first}");
        findings
            .push(warning(what, "remove the files; the policies are fetched again when needed"));
    }
    (fetcher, policies)
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::config::HostFacts;
    use crate::config::load;

    #[test]
    fn each_shard_has_its_part_of_the_resolver_cache() {
        let host =
            HostFacts { hostname: "mx.test".to_owned(), ports_from: 1024, ..HostFacts::default() };
        let text = "[resolver]\ncache_entries = 1000\ncache_memory = '10MiB'\ntimeout = '3s'\n";
        let config = load(text, "f", &host).expect("it is good").config;
        let settings =
            resolver_settings(&config.resolver, 3, || "nameserver 192.0.2.53\n".to_owned());
        assert_eq!(settings.cache, CacheBounds { entries: 334, bytes: (10 << 20) / 3 });
        assert_eq!(settings.servers, ["192.0.2.53:53".parse().expect("an address")]);
        assert_eq!(settings.timeout, Duration::from_secs(3), "the file wins");
    }
}
