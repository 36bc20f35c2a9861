//! The kinds of writes, for metrics and logs.

use std::fmt;

/// What a step does, and to what kind of object: the label `kind` of the metric that counts writes, and a word in logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StepKind {
    /// Sets a kernel parameter.
    SetSysctl,
    /// Makes the device.
    AddDevice,
    /// Sets IPVS's timeouts.
    SetTimeouts,
    /// Makes the table of a family, with its fixed rules and all elements.
    InstallRules,
    /// Removes an element of a set.
    DeleteElement,
    /// Adds an element to a set.
    AddElement,
    /// Adds a virtual server.
    AddVirtualServer,
    /// Changes the settings of a virtual server.
    EditVirtualServer,
    /// Adds a real server to a virtual server.
    AddRealServer,
    /// Changes the settings of a real server, such as its weight.
    EditRealServer,
    /// Removes a real server.
    DeleteRealServer,
    /// Puts an address on the device.
    AddAddress,
    /// Changes the attributes of an address on the device.
    EditAddress,
    /// Adds the local route of an address.
    AddRoute,
    /// Takes an address off the device.
    DeleteAddress,
    /// Removes a virtual server.
    DeleteVirtualServer,
}

impl StepKind {
    /// All kinds, in order.
    pub const ALL: [Self; 16] = [
        Self::SetSysctl,
        Self::AddDevice,
        Self::SetTimeouts,
        Self::InstallRules,
        Self::DeleteElement,
        Self::AddElement,
        Self::AddVirtualServer,
        Self::EditVirtualServer,
        Self::AddRealServer,
        Self::EditRealServer,
        Self::DeleteRealServer,
        Self::AddAddress,
        Self::EditAddress,
        Self::AddRoute,
        Self::DeleteAddress,
        Self::DeleteVirtualServer,
    ];

    /// The kind as one word: `add_virtual_server`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SetSysctl => "set_sysctl",
            Self::AddDevice => "add_device",
            Self::SetTimeouts => "set_timeouts",
            Self::InstallRules => "install_rules",
            Self::DeleteElement => "delete_element",
            Self::AddElement => "add_element",
            Self::AddVirtualServer => "add_virtual_server",
            Self::EditVirtualServer => "edit_virtual_server",
            Self::AddRealServer => "add_real_server",
            Self::EditRealServer => "edit_real_server",
            Self::DeleteRealServer => "delete_real_server",
            Self::AddAddress => "add_address",
            Self::EditAddress => "edit_address",
            Self::AddRoute => "add_route",
            Self::DeleteAddress => "delete_address",
            Self::DeleteVirtualServer => "delete_virtual_server",
        }
    }
}

impl fmt::Display for StepKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
