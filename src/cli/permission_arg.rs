//! The exceptions from a sandbox that flags name.

use clap::ValueEnum;

use crate::model::account::Permission;

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum PermissionArg {
    NewPrivileges,
    Devices,
}

impl From<PermissionArg> for Permission {
    fn from(permission: PermissionArg) -> Self {
        match permission {
            PermissionArg::NewPrivileges => Self::NewPrivileges,
            PermissionArg::Devices => Self::Devices,
        }
    }
}
