//! Carries out the operations on the server itself.

use crate::control::call::Call;
use crate::control::call::CarryOut;
use crate::control::server::Control;
use crate::operations::OpFault;
use crate::operations::server::CheckHealth;
use crate::operations::server::Health;
use crate::operations::server::ReloadConfig;
use crate::operations::server::Reloaded;

impl CarryOut for CheckHealth {
    const ALWAYS_RUNS: bool = true;

    async fn run(_: Call<CheckHealth>, control: &Control) -> Result<Health, OpFault> {
        let observed = &control.observed;
        Ok(Health {
            faults: observed.faults(observed.now_ms()),
            obstacles: observed.obstacles().into_iter().map(str::to_owned).collect(),
            warnings: observed.warnings(),
        })
    }
}

impl CarryOut for ReloadConfig {
    async fn run(_: Call<ReloadConfig>, control: &Control) -> Result<Reloaded, OpFault> {
        control.refuse_while_draining()?;
        control.reload.reload().await
    }
}
