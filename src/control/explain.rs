//! Explains why a message is still queued: the facts, gathered from the store and the shards.
//!
//! Promise:  each state of a job has one source: the store, its home shard, or the owner of its
//!           destination.

use std::collections::HashMap;

use crate::base::MessageId;
use crate::base::ShardId;
use crate::base::clock::wall_ms;
use crate::control::call::Call;
use crate::control::call::CarryOut;
use crate::control::call::Outcome;
use crate::control::queue::parse_id;
use crate::control::queue::queue_fault;
use crate::control::rows;
use crate::control::sentences::finish_ms;
use crate::control::sentences::sentences;
use crate::control::server::Control;
use crate::delivery::view;
use crate::delivery::view::JobView;
use crate::delivery::view::Standing;
use crate::delivery::view::WaitingView;
use crate::operations::OpFault;
use crate::operations::why::ConnectionHolder;
use crate::operations::why::ExplainMessage;
use crate::operations::why::ExplainedJob;
use crate::operations::why::Explanation;
use crate::operations::why::FiledJob;
use crate::operations::why::Place;
use crate::operations::why::QueuedJob;
use crate::operations::why::ResolvingFor;
use crate::operations::why::WaitingJob;
use crate::queue::Spool;
use crate::queue::admin::inspect;
use crate::queue::admin::inspect::Details;
use crate::queue::admin::inspect::FiledPlace;
use crate::queue::admin::inspect::JobRow;
use crate::shard::Delivering;

impl CarryOut for ExplainMessage {
    async fn run(call: Call<Self>, control: &Control) -> Outcome<Self> {
        let text = call.into_operation().id;
        let id = parse_id(control.spool(), "id", &text)?;
        let (details, filed) = control
            .read(move |spool| Ok((read(&text, id, spool)?, filed(&text, id, spool)?)))
            .await?;
        let numbers: Vec<u16> = details.jobs.iter().map(|job| job.number).collect();
        let targets: Vec<(u64, u64)> =
            filed.iter().map(|place| (place.flow.destination, place.flow.tenant)).collect();
        let asked = move |shard: &Delivering| {
            shard.with_home(|home, now| {
                let under = targets.iter().map(|target| home.filed_under(*target, now));
                (home.standings(id, &numbers, now), under.collect::<Vec<_>>())
            })
        };
        let (standings, under) = control.ask(control.home_of(id)?, asked).await?;
        let mut places = HashMap::with_capacity(details.jobs.len());
        for (place, flow) in filed.into_iter().zip(under) {
            let filed = Some(Box::new(filed_job(&place, flow.as_ref(), control.spool())));
            places.insert(place.job, Place::Store { filed });
        }
        for (number, standing) in standings {
            places.insert(number, place(control, standing).await);
        }
        Ok(explain(&details, Some(places), wall_ms()))
    }

    fn run_stopped(call: Call<Self>, spool: &Spool) -> Outcome<Self> {
        let text = call.into_operation().id;
        let details = read(&text, parse_id(spool, "id", &text)?, spool)?;
        Ok(explain(&details, None, wall_ms()))
    }
}

fn read(text: &str, id: MessageId, spool: &Spool) -> Result<Details, OpFault> {
    inspect::show(spool, id).map_err(|fault| queue_fault(fault).about(text))
}

fn filed(text: &str, id: MessageId, spool: &Spool) -> Result<Vec<FiledPlace>, OpFault> {
    inspect::filed(spool, id).map_err(|fault| queue_fault(fault).about(text))
}

fn filed_job(place: &FiledPlace, flow: Option<&view::FlowView>, spool: &Spool) -> FiledJob {
    FiledJob {
        destination: flow.map(|flow| flow.name.to_string()),
        ahead: place.ahead as u64,
        granted: flow.map(|flow| rows::granted(&flow.state, flow.places.total, flow.at, spool)),
    }
}

/// Where a job in memory is. The owner of its destination is asked for one that is out.
async fn place(control: &Control, standing: Standing) -> Place {
    match standing {
        Standing::Reading => Place::Reading,
        Standing::Resolving(waits_for) => Place::Resolving {
            waits_for: match waits_for {
                view::ResolvingFor::Lookup { ahead, places } => {
                    ResolvingFor::Lookup { ahead: ahead as u64, places: places as u64 }
                }
                view::ResolvingFor::Answer => ResolvingFor::Answer,
                view::ResolvingFor::Again { at, lack } => ResolvingFor::Again {
                    at_ms: at.map(|at| at.as_ms()),
                    lack: lack.map(|lack| lack.words().to_owned()),
                },
                view::ResolvingFor::Numbers => ResolvingFor::Numbers,
            },
        },
        Standing::Waiting(view) => Place::Waiting(Box::new(waiting_job(&view, control.spool()))),
        Standing::Writing { partition } => Place::Writing { partition: partition.0 },
        Standing::Out { owner, job } => {
            let asked =
                move |shard: &Delivering| shard.with_owner(|owner, now| owner.why(job, now));
            match control.ask(owner, asked).await {
                Ok(Some(view)) => place_of(control.spool(), view, owner),
                Ok(None) => Place::Passing,
                Err(fault) => Place::Silent { fault: fault.detail },
            }
        }
    }
}

fn waiting_job(view: &WaitingView, spool: &Spool) -> WaitingJob {
    WaitingJob {
        destination: view.destination.to_string(),
        name: view.name.to_string(),
        owner: view.owner.0,
        ahead: view.ahead.map(|ahead| ahead as u64),
        places: view.places.total.into(),
        places_per_flow: view.places.per_flow.into(),
        out: view.out.into(),
        granted: rows::granted(&view.state, view.places.total, view.at, spool),
    }
}

fn place_of(spool: &Spool, view: JobView, owner: ShardId) -> Place {
    let destination = rows::detailed_row(&view.destination, owner, spool);
    let Some(ahead) = view.ahead else {
        return Place::Sending { destination: Box::new(destination) };
    };
    let holders = view.holders.into_iter().map(|(destination, connections)| ConnectionHolder {
        destination: destination.into(),
        connections: connections.into(),
    });
    Place::Queued(Box::new(QueuedJob {
        ahead: ahead as u64,
        binding: destination.binding,
        destination,
        under_way: view.under_way.iter().map(|id| spool.public_id(*id).to_string()).collect(),
        shard_connections: holders.collect(),
    }))
}

/// All that is known. `places`: where jobs in memory are, by number; `None`: no server runs.
fn explain(details: &Details, places: Option<HashMap<u16, Place>>, now_ms: u64) -> Explanation {
    let server_runs = places.is_some();
    let mut places = places.unwrap_or_default();
    let jobs = details.jobs.iter().map(|job| {
        let place = places.remove(&job.number).unwrap_or(Place::Store { filed: None });
        explain_job(details, job, place, (server_runs, now_ms))
    });
    Explanation {
        id: details.id.clone(),
        now_ms,
        server_runs,
        received_ms: details.received_ms,
        sender: details.sender.clone(),
        jobs: jobs.collect(),
    }
}

fn explain_job(
    details: &Details,
    job: &JobRow,
    place: Place,
    (server_runs, now_ms): (bool, u64),
) -> ExplainedJob {
    let recipients = job
        .recipients
        .iter()
        .filter_map(|index| details.recipients.get(*index as usize))
        .map(|recipient| recipient.mailbox.clone());
    let mut explained = ExplainedJob {
        job: job.number,
        state: job.state.clone(),
        recipients: recipients.collect(),
        attempts: job.attempts,
        last_attempt_ms: job.last_attempt_ms,
        last_reply: job.last_reply.clone(),
        rerouted_to: job.rerouted_to.clone(),
        next_attempt_ms: (job.state != "held").then_some(job.due_ms.max(now_ms)),
        place,
        predicted_finish_ms: None,
        sentences: Vec::new(),
    };
    explained.predicted_finish_ms = finish_ms(&explained, now_ms).filter(|_| server_runs);
    explained.sentences = sentences(&explained, server_runs, now_ms);
    explained
}
