//! The sinks of a run, each over several lives at the same addresses.
//!
//! Promise:  mail of all lives counts. A sink that is down refuses connections and keeps its ports,
//!           except for the instant at which it stops or starts.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use socket2::Domain;
use socket2::Socket;
use socket2::Type;

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
    /// The sum of earlier lives.
    pub taken: Taken,
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
            taken: Taken::default(),
        };
        match part.down {
            true => place.hold().map_err(named)?,
            false => place.run(settings, part.behaviour.as_deref()).map_err(named)?,
        }
        Ok(place)
    }

    fn run(&mut self, mut settings: Settings, behaviour: Option<&str>) -> Result<(), String> {
        settings.live = false;
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
            self.taken.add(sink.stop().map_err(named)?);
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
        self.taken.counts.copies + now.copies
    }
}
