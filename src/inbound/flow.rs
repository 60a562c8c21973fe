//! Reads and writes for a session. Every wait has a deadline, and unused memory is released.

use std::time::Duration;
use std::time::Instant;

use crate::base::Chunk;
use crate::inbound::session::End;
use crate::inbound::session::Session;
use crate::net::SocketFault;
use crate::net::TlsFault;
use crate::observe::Stage;
use crate::observe::label::SessionState;
use crate::rt::IoFault;
use crate::rt::timer;

/// Time between two tries to take a chunk while the pool is empty.
pub(super) const CHUNK_RETRY: Duration = Duration::from_millis(20);

/// How long a client may take to read its last reply while the server drains.
const DRAIN_REPLY: Duration = Duration::from_secs(1);

impl Session {
    /// Flushes the output, then waits for the next command.
    pub(super) async fn await_command(&mut self) -> Result<(), End> {
        self.flush().await?;
        if self.reception.is_draining() {
            return Err(End::Draining);
        }
        if self.input.is_empty() && !self.server.is_skipping() {
            // Only a new wait sets the deadline: a command that arrives byte by byte has as much time
            // as one that arrives whole.
            let timeouts = &self.policy.timeouts;
            let limit = match (self.server.commands(), self.server.in_transaction()) {
                (0, _) => timeouts.greeting,
                (_, true) => timeouts.command,
                (_, false) => timeouts.idle,
            };
            self.command_until = Instant::now() + limit;
        }
        let left = self.command_until.saturating_duration_since(Instant::now());
        self.channel.stream().deadline().set_idle_in(left);
        self.fill(SessionState::Command).await?;
        self.command_began = Some(Instant::now());
        Ok(())
    }

    /// Reads more input. Holds no memory while it waits for the first byte.
    pub(super) async fn fill(&mut self, wait: SessionState) -> Result<(), End> {
        if self.input.extend_front() {
            return Ok(());
        }
        if self.out.is_empty() {
            self.reception.give_output(std::mem::take(&mut self.out));
        }
        self.input.release(&self.reception.pool);
        let read = self.read(None).await;
        self.out = match self.out.capacity() {
            0 => self.reception.take_output(),
            _ => std::mem::take(&mut self.out),
        };
        self.input.put(read.map_err(|fault| self.end_of(fault, wait))?);
        Ok(())
    }

    /// Reads once. Under TLS the plaintext needs a chunk of its own; while the pool is empty, this
    /// waits until the deadline, as reading a plain socket does.
    pub(super) async fn read(&mut self, mut chunk: Option<Chunk>) -> Result<Chunk, SocketFault> {
        loop {
            match self.channel.read(&self.reception.pool, chunk.take()).await {
                Err(SocketFault::Tls(TlsFault::NoChunk)) => {
                    if self.channel.stream().deadline().expired() {
                        return Err(SocketFault::Io(IoFault::NoChunk));
                    }
                    timer::sleep(CHUNK_RETRY).await;
                }
                read => return read,
            }
        }
    }

    /// Writes the output.
    pub(super) async fn flush(&mut self) -> Result<(), End> {
        if self.out.is_empty() {
            return Ok(());
        }
        self.count_replies();
        let limit = match self.reception.is_draining() {
            true => self.policy.timeouts.reply.min(DRAIN_REPLY),
            false => self.policy.timeouts.reply,
        };
        self.channel.stream().deadline().set_in(limit);
        let (written, mut out) = self.channel.write(std::mem::take(&mut self.out)).await;
        out.clear();
        self.out = out;
        written.map_err(|fault| self.end_of(fault, SessionState::Write))?;
        if let Some(began) = self.command_began.take() {
            self.record(Stage::Command, began);
        }
        Ok(())
    }

    pub(super) fn end_of(&self, fault: SocketFault, wait: SessionState) -> End {
        if fault.is_end() {
            return End::Gone;
        }
        if !fault.is_timeout() {
            return End::Broken;
        }
        if wait != SessionState::Write && self.reception.is_draining() {
            return End::Draining;
        }
        End::TimedOut(wait)
    }

    pub(super) fn record(&self, stage: Stage, began: Instant) {
        self.reception.histograms.record(stage, began.elapsed().as_micros() as u64);
    }
}
