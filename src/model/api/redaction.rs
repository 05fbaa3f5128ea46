//! Answers of a host without the values of the environments of its instances.

use super::deployments::{
    AssignResponse, DeployResponse, DeploymentView, DeploymentsView, KillResponse, TrialOutcome,
};
use crate::model::deployment::Deployment;

impl DeploymentsView {
    #[must_use]
    pub fn redact(self) -> Self {
        let redact = |view: DeploymentView| DeploymentView { deployment: view.deployment.redact(), ..view };
        Self { deployments: self.deployments.into_iter().map(redact).collect(), ..self }
    }
}

impl DeployResponse {
    #[must_use]
    pub fn redact(self) -> Self {
        Self { deployment: self.deployment.redact(), ..self }
    }
}

impl AssignResponse {
    #[must_use]
    pub fn redact(self) -> Self {
        let previous = self.previous.map(Deployment::redact);
        Self { deployment: self.deployment.redact(), previous, ..self }
    }
}

impl KillResponse {
    #[must_use]
    pub fn redact(self) -> Self {
        Self { deployment: self.deployment.redact(), ..self }
    }
}

impl TrialOutcome {
    #[must_use]
    pub fn redact(self) -> Self {
        match self {
            Self::RolledBack { previous, reason } => {
                Self::RolledBack { previous: Box::new(previous.redact()), reason }
            }
            Self::Overtaken { main, actor } => {
                Self::Overtaken { main: main.map(|main| Box::new(main.redact())), actor }
            }
            unchanged @ (Self::Passed | Self::Stuck { .. }) => unchanged,
        }
    }
}
