//! One connection: reads input, passes it to the dialogue, writes the replies.
//!
//! Cost:     one read and one write for a batch of pipelined commands. Between messages and during
//!           delays a connection holds no chunk.
//! Waits:    `-t` seconds for each read and each write. A sink that stops ends delays at once and
//!           writes the replies, since they may be for a copy in the ledger.

use std::rc::Rc;
use std::time::Duration;
use std::time::Instant;

use ringpost::base::Chunk;
use ringpost::base::ChunkPool;
use ringpost::net::Channel;
use ringpost::net::SocketFault;
use ringpost::net::TlsFault;
use ringpost::rt::Stream;
use ringpost::rt::timer;

use crate::sink::dialogue::CLOSING;
use crate::sink::dialogue::Dialogue;
use crate::sink::dialogue::Step;
use crate::sink::dialogue::Then;
use crate::sink::marks::Mark;
use crate::sink::state::State;

/// Sleeps are cut into pieces of this length, to notice the end of the run.
const NAP: Duration = Duration::from_millis(50);
/// How often a tarpit writes a few bytes.
const DRIP_EVERY: Duration = Duration::from_millis(100);

/// The connection has ended; the sink does not need the reason.
struct Over;

impl From<SocketFault> for Over {
    fn from(_: SocketFault) -> Over {
        Over
    }
}

/// Serves one connection to its end.
pub async fn serve(state: Rc<State>, stream: Stream) {
    let Ok(peer) = stream.peer() else { return };
    let dialogue = Dialogue::new(Rc::clone(&state), peer);
    let mut session = Session { state, channel: Channel::plain(stream), dialogue, out: Vec::new() };
    // `Ok` and `Err` both mean that the connection has ended.
    let _ = session.run().await;
}

/// Input that has not been processed.
enum Input {
    Chunk(Chunk),
    /// The rest after a delayed command, copied, so that no chunk is held during the delay.
    Own(Vec<u8>),
}

impl Input {
    fn bytes(&self) -> &[u8] {
        match self {
            Input::Chunk(chunk) => chunk.bytes(),
            Input::Own(bytes) => bytes,
        }
    }

    /// The rest after `at`, without a chunk.
    fn behind(self, at: usize, pool: &ChunkPool) -> Input {
        let rest = self.bytes()[at..].to_vec();
        self.give_back(pool);
        Input::Own(rest)
    }

    fn give_back(self, pool: &ChunkPool) {
        if let Input::Chunk(chunk) = self {
            pool.give(chunk);
        }
    }
}

struct Session {
    state: Rc<State>,
    channel: Channel<Stream>,
    dialogue: Dialogue,
    out: Vec<u8>,
}

impl Session {
    async fn run(&mut self) -> Result<(), Over> {
        if self.state.settings.options.tls {
            self.start_tls().await?;
        }
        let step = self.dialogue.on_connect(&mut self.out);
        self.carry_out(step, 0).await?;
        self.flush().await?;
        loop {
            // A sink that stops interrupts idle reads first, and writes later.
            self.channel.stream().deadline().set_idle_in(self.state.settings.options.timeout);
            let chunk = match self.channel.read(&self.state.pool, None).await {
                Ok(chunk) => chunk,
                Err(SocketFault::Tls(TlsFault::NoChunk)) => {
                    timer::sleep(NAP).await;
                    continue;
                }
                Err(_) => return self.leave().await,
            };
            self.dialogue.on_read(Instant::now());
            let mut input = Input::Chunk(chunk);
            let mut at = 0;
            while at < input.bytes().len() {
                let mark = self.out.len();
                let (used, step) = self.dialogue.next(&input.bytes()[at..], &mut self.out);
                at += used;
                let Some(step) = step else { break };
                if step.is_plain() {
                    continue;
                }
                input = input.behind(at, &self.state.pool);
                at = 0;
                let is_tls = matches!(step.then, Then::StartTls);
                self.carry_out(step, mark).await?;
                if is_tls {
                    // RFC 3207 s4.2: input that followed STARTTLS in the clear is discarded.
                    break;
                }
            }
            input.give_back(&self.state.pool);
            if !self.out.is_empty() {
                self.flush().await?;
                self.dialogue.on_answered();
            }
            if self.state.shared.is_stopping() {
                return self.leave().await;
            }
        }
    }

    /// Ends the connection from our side.
    async fn leave(&mut self) -> Result<(), Over> {
        if self.state.shared.is_stopping() {
            self.out.extend_from_slice(CLOSING);
        }
        self.close().await
    }

    /// Replies from `mark` on belong to the step; earlier ones are not delayed.
    async fn carry_out(&mut self, step: Step, mark: usize) -> Result<(), Over> {
        if !step.delay.is_zero() {
            let held = self.out.split_off(mark);
            self.flush().await?;
            let slept = self.sleep(step.delay).await;
            self.out.extend_from_slice(&held);
            if slept.is_err() {
                self.leave().await?;
                return Err(Over);
            }
        }
        match step.then {
            Then::Go => Ok(()),
            Then::Close => {
                self.close().await?;
                Err(Over)
            }
            Then::Drop => {
                self.flush().await?;
                Err(Over)
            }
            Then::StartTls => {
                self.flush().await?;
                self.start_tls().await?;
                self.dialogue.on_tls();
                Ok(())
            }
        }
    }

    async fn start_tls(&mut self) -> Result<(), Over> {
        let server = self.state.settings.tls.as_ref().ok_or(Over)?;
        self.channel.start_tls(server)?;
        self.set_deadline();
        let begin = Instant::now();
        self.channel.handshake(&self.state.pool, None).await?;
        let now = Instant::now();
        self.state.marks.record(Mark::Tls, now - begin);
        self.dialogue.on_written(now);
        Ok(())
    }

    async fn close(&mut self) -> Result<(), Over> {
        self.flush().await?;
        self.set_deadline();
        Ok(self.channel.close().await?)
    }

    /// Writes the replies, slowly if the tarpit is on.
    async fn flush(&mut self) -> Result<(), Over> {
        if self.out.is_empty() {
            return Ok(());
        }
        let Some(per_second) = self.dialogue.tarpit() else {
            let all = std::mem::take(&mut self.out);
            self.out = self.write(all).await?;
            return Ok(());
        };
        let slow = std::mem::take(&mut self.out);
        let drips = 1.0 / DRIP_EVERY.as_secs_f64();
        let bytes = ((f64::from(per_second) / drips) as usize).max(1);
        let pause = Duration::from_secs_f64(bytes as f64 / f64::from(per_second));
        for drip in slow.chunks(bytes) {
            // A sink that stops writes the rest at once.
            let _ = self.sleep(pause).await;
            self.write(drip.to_vec()).await?;
        }
        Ok(())
    }

    async fn write(&mut self, bytes: Vec<u8>) -> Result<Vec<u8>, Over> {
        self.state.show("<", &bytes);
        self.set_deadline();
        let (written, bytes) = self.channel.write(bytes).await;
        written?;
        self.dialogue.on_written(Instant::now());
        Ok(bytes)
    }

    async fn sleep(&self, time: Duration) -> Result<(), Over> {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            if self.state.shared.is_stopping() {
                return Err(Over);
            }
            timer::sleep(left.min(NAP)).await;
        }
    }

    fn set_deadline(&self) {
        self.channel.stream().deadline().set_in(self.state.settings.options.timeout);
    }
}
