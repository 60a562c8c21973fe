//! Carries out the operations on destinations.
//!
//! Bounds:   `DESTINATIONS_SHOWN_MAX` rows in one answer. Shards that do not answer in time are left
//!           out of a list; a pause that not all shards have taken is a fault.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::task::spawn_blocking;

use crate::base::ShardId;
use crate::control::call::Call;
use crate::control::call::CarryOut;
use crate::control::call::Outcome;
use crate::control::rows;
use crate::control::server::Control;
use crate::delivery::job::Now;
use crate::delivery::owner::Owner;
use crate::delivery::view::DestinationView;
use crate::operations::OpFault;
use crate::operations::destination::DESTINATIONS_SHOWN_MAX;
use crate::operations::destination::DestinationDetails;
use crate::operations::destination::DestinationList;
use crate::operations::destination::DestinationRow;
use crate::operations::destination::ListDestinations;
use crate::operations::destination::PauseDestination;
use crate::operations::destination::PausedDestination;
use crate::operations::destination::ResumeDestination;
use crate::operations::destination::ShowDestination;
use crate::queue::admin::pauses::PauseFault;
use crate::queue::admin::pauses::Pauses;
use crate::shard::Delivering;
use crate::shard::ShardRequest;

impl CarryOut for ListDestinations {
    async fn run(call: Call<Self>, control: &Control) -> Outcome<Self> {
        let limit = call.into_operation().limit.min(DESTINATIONS_SHOWN_MAX);
        let destinations = largest(control, limit).await?;
        let paused = control.parts.pauses.names().into_iter().map(String::from).collect();
        Ok(DestinationList { destinations, paused })
    }
}

async fn largest(control: &Control, limit: usize) -> Result<Vec<DestinationRow>, OpFault> {
    let asked =
        move |shard: &Delivering| shard.with_owner(|owner, now| owner.destinations(limit, now));
    let found = control.ask_all(ShardRequest::Ask, asked).await?;
    let is_cut = found.iter().any(|(_, destinations)| destinations.len() >= limit);
    let mut rows = merged(&found);
    rows.truncate(limit);
    if !is_cut {
        return Ok(rows);
    }
    // A stripe may be too small for its own shard's list and still belongs to the sum.
    let keys: Vec<Box<str>> = rows.iter().map(|row| row.destination.as_str().into()).collect();
    let asked = move |shard: &Delivering| {
        shard.with_owner(|owner, now| owner.destinations_keyed(&keys, now))
    };
    Ok(merged(&control.ask_all(ShardRequest::Ask, asked).await?))
}

fn merged(found: &[(ShardId, Vec<DestinationView>)]) -> Vec<DestinationRow> {
    let each = found
        .iter()
        .flat_map(|(shard, views)| views.iter().map(|view| rows::destination_row(view, *shard)));
    rows::merged(each)
}

impl CarryOut for ShowDestination {
    async fn run(call: Call<Self>, control: &Control) -> Outcome<Self> {
        let destination = call.into_operation().destination;
        let name = Pauses::settled(&destination);
        let _one_at_a_time = control.pausing.lock().await;
        let asked = move |shard: &Delivering| {
            shard.with_owner(|owner, now| owner.destinations_named(&name, now))
        };
        let found = control.ask_all(ShardRequest::Ask, asked).await?;
        let paused_by_operator = found.iter().any(|(_, (_, is_paused))| *is_paused);
        let each = found.iter().flat_map(|(shard, (views, _))| {
            views.iter().map(|view| rows::detailed_row(view, *shard, control.spool()))
        });
        let destinations = rows::merged(each);
        if destinations.is_empty() && !paused_by_operator {
            let what = format!("{destination}: no such destination at present");
            return Err(OpFault::not_found("no_such_destination", what)
                .hint("see `ringpost destination list`"));
        }
        Ok(DestinationDetails { destination, paused_by_operator, destinations })
    }
}

impl CarryOut for PauseDestination {
    async fn run(call: Call<Self>, control: &Control) -> Outcome<Self> {
        let destination = call.into_operation().destination;
        change(control, destination, Pauses::add, |owner, name, now| owner.pause(name, now.mono))
            .await
    }
}

impl CarryOut for ResumeDestination {
    async fn run(call: Call<Self>, control: &Control) -> Outcome<Self> {
        let destination = call.into_operation().destination;
        change(control, destination, Pauses::remove, |owner, name, now| {
            owner.resume(name, now.mono)
        })
        .await
    }
}

/// Changes the file of pauses, then all shards.
async fn change(
    control: &Control,
    destination: String,
    in_file: fn(&Pauses, &str) -> Result<(), PauseFault>,
    on_shard: fn(&mut Owner, &str, Now) -> Vec<Box<str>>,
) -> Result<PausedDestination, OpFault> {
    let name = Pauses::settled(&destination);
    let _one_at_a_time = control.pausing.lock().await;
    control.refuse_while_draining()?;
    let kept = keep(control, &name, in_file).await?;
    match &kept {
        Err(fault @ PauseFault::Name) => {
            return Err(OpFault::usage("bad_name", fault.to_string()).about(&destination));
        }
        Err(fault @ PauseFault::Full) => {
            return Err(OpFault::conflict("too_many_pauses", fault.to_string()).about(&destination));
        }
        _ => {}
    }
    let asked =
        move |shard: &Delivering| shard.with_owner(|owner, now| on_shard(owner, &name, now));
    let touched = control.ask_all(ShardRequest::Change, asked).await?;
    if touched.len() < control.shards() {
        let what = format!("{destination}: not all shards have answered");
        return Err(OpFault::away("no_answer", what).hint("try again").retry_after(1));
    }
    let keys: BTreeSet<Box<str>> = touched.into_iter().flat_map(|(_, keys)| keys).collect();
    let destinations = keys.into_iter().map(String::from).collect();
    let warning = kept.err().map(|fault| fault.to_string());
    Ok(PausedDestination { destination, destinations, warning })
}

/// Writes the file of pauses, which is synced, on a blocking thread.
async fn keep(
    control: &Control,
    name: &str,
    change: fn(&Pauses, &str) -> Result<(), PauseFault>,
) -> Result<Result<(), PauseFault>, OpFault> {
    let (pauses, name) = (Arc::clone(&control.parts.pauses), name.to_owned());
    spawn_blocking(move || change(&pauses, &name)).await.map_err(|_| OpFault::bug())
}
