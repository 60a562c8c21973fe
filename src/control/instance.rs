//! Carries out the operations on the server itself.

use crate::control::call::Call;
use crate::control::call::CarryOut;
use crate::control::call::Outcome;
use crate::control::server::Control;
use crate::operations::server::CheckHealth;
use crate::operations::server::Health;
use crate::operations::server::ReloadConfig;

impl CarryOut for CheckHealth {
    const ALWAYS_RUNS: bool = true;

    async fn run(_: Call<Self>, control: &Control) -> Outcome<Self> {
        let observed = &control.parts.observed;
        Ok(Health {
            faults: observed.faults(observed.now_ms()),
            obstacles: observed.obstacles().into_iter().map(str::to_owned).collect(),
            warnings: observed.warnings(),
        })
    }
}

impl CarryOut for ReloadConfig {
    async fn run(_: Call<Self>, control: &Control) -> Outcome<Self> {
        control.refuse_while_draining()?;
        control.parts.reload.reload().await
    }
}
