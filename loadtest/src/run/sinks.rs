//! The sinks of a run, each over several lives at the same addresses.
//!
//! Promise:  mail of all lives counts. A sink that is down refuses connections and keeps its ports,
//!           except for the instant at which it stops or starts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use socket2::Domain;
use socket2::Socket;
use socket2::Type;

use crate::ledger::Ledger;
use crate::report::Hdr;
use crate::report::Live;
use crate::report::by_name;
use crate::run::scenario::SinkPart;
use crate::sink::Counts;
use crate::sink::Settings;
use crate::sink::Sink;
use crate::sink::Taken;
use crate::sink::behaviour_file;

/// One sink.
pub struct Place {
    pub part: SinkPart,
    pub addresses: Vec<SocketAddr>,
    running: Option<Sink>,
    /// Its ports while it is down: bound, without a listener.
    held: Vec<OwnedFd>,
    /// Results of earlier lives.
    taken: Vec<Taken>,
}

/// The result of a sink.
pub struct Harvest {
    pub part: SinkPart,
    pub counts: BTreeMap<String, u64>,
    pub ledger: Ledger,
    pub end_to_end: Option<Hdr>,
}

impl Place {
    /// Starts at its own addresses, or at these.
    pub fn start(part: &SinkPart, at: Option<&[String]>) -> Result<Place, String> {
        let at = at.unwrap_or(&part.at);
        let named = |why: String| format!("sink `{}`: {why}", part.name);
        let settings = part.parsed(at).and_then(|options| options.settings()).map_err(named)?;
        let mut place = Place {
            part: part.clone(),
            addresses: settings.places.clone(),
            running: None,
            held: Vec::new(),
            taken: Vec::new(),
        };
        match part.down {
            true => place.hold().map_err(named)?,
            false => place.run(settings, part.behaviour.as_deref()).map_err(named)?,
        }
        Ok(place)
    }

    fn run(&mut self, mut settings: Settings, behaviour: Option<&str>) -> Result<(), String> {
        settings.live = Live::Never;
        settings.behaviours = behaviour.map(behaviour_file::find).transpose()?;
        let sink = Sink::start(settings)?;
        self.addresses = sink.addresses().to_vec();
        self.running = Some(sink);
        Ok(())
    }

    /// Binds its ports.
    fn hold(&mut self) -> Result<(), String> {
        for address in &mut self.addresses {
            let bound = Socket::new(Domain::for_address(*address), Type::STREAM, None);
            let bound = bound.and_then(|socket| {
                socket.set_reuse_address(true)?;
                socket.bind(&(*address).into())?;
                *address = socket.local_addr()?.as_socket().unwrap_or(*address);
                Ok(socket)
            });
            let socket = bound.map_err(|cause| format!("{address}: {cause}"))?;
            self.held.push(socket.into());
        }
        Ok(())
    }

    /// Starts again, with the same behaviour unless another is given.
    pub fn resume(&mut self, behaviour: Option<&str>) -> Result<(), String> {
        self.held.clear();
        let at: Vec<String> = self.addresses.iter().map(SocketAddr::to_string).collect();
        let settings = self.part.parsed(&at).and_then(|options| options.settings());
        let behaviour = behaviour.or(self.part.behaviour.as_deref()).map(str::to_owned);
        let run = settings.and_then(|settings| self.run(settings, behaviour.as_deref()));
        run.map_err(|why| format!("sink `{}`: {why}", self.part.name))
    }

    /// Stops with all connections.
    pub fn stop(&mut self) -> Result<(), String> {
        let named = |why: String| format!("sink `{}`: {why}", self.part.name);
        if let Some(sink) = self.running.take() {
            self.taken.push(sink.stop().map_err(named)?);
        }
        Ok(())
    }

    /// Stops and keeps the ports.
    pub fn suspend(&mut self) -> Result<(), String> {
        self.stop()?;
        self.hold()
    }

    /// Copies received so far.
    pub fn copies(&self) -> u64 {
        let now = self.running.as_ref().map_or(Counts::default(), Sink::counts);
        self.taken.iter().map(|taken| taken.counts.copies).sum::<u64>() + now.copies
    }

    /// Stops and returns the result.
    pub fn harvest(mut self) -> Result<Harvest, String> {
        self.stop()?;
        let mut harvest = Harvest {
            part: self.part,
            counts: BTreeMap::new(),
            ledger: Ledger::default(),
            end_to_end: None,
        };
        for taken in self.taken {
            for (name, count) in by_name(&taken.counts) {
                *harvest.counts.entry(name).or_insert(0) += count;
            }
            match (&mut harvest.end_to_end, taken.end_to_end()) {
                (_, None) => {}
                (Some(sum), Some(all)) => sum.0.add(all).expect("all have the same bounds"),
                (none, Some(all)) => *none = Some(Hdr(all.clone())),
            }
            harvest.ledger.add(taken.ledger);
        }
        Ok(harvest)
    }
}
