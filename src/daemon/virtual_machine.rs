//! Does this run in a virtual machine? Asked before reads are leased (R5): a hypervisor may stop a machine with its
//! clock (a snapshot, a migration), and a lease that does not run out while the other node takes over is a stale read.
//!
//! What is looked at is what `systemd-detect-virt --vm` looks at: the hypervisor bit of CPUID (the kernel shows it among
//! the flags), Xen's own directory, the firmware's vendor, the device tree. A container on bare metal has none of these.

use std::path::Path;

use super::config::Config;
use super::failure::Failure;
use crate::arbitration::Reads;

/// Vendors and products that firmware names in virtual machines only.
const VENDORS: [&str; 13] = [
    "KVM",
    "OpenStack",
    "KubeVirt",
    "Amazon EC2",
    "QEMU",
    "VMware",
    "VMW",
    "innotek GmbH",
    "VirtualBox",
    "Xen",
    "Bochs",
    "Parallels",
    "BHYVE",
];

/// What gives the machine below `root` (`/`) away as a virtual one.
pub fn sign(root: &Path) -> Option<String> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
    let bit = |line: &str| {
        line.split_once(':').is_some_and(|(key, flags)| {
            key.trim() == "flags" && flags.split_ascii_whitespace().any(|flag| flag == "hypervisor")
        })
    };
    if read("proc/cpuinfo").lines().any(bit) {
        return Some("the processor has the hypervisor flag".to_owned());
    }
    let kind = read("sys/hypervisor/type");
    if !kind.trim().is_empty() {
        return Some(format!("/sys/hypervisor/type is {:?}", kind.trim()));
    }
    for name in ["sys_vendor", "product_name", "board_vendor", "bios_vendor"] {
        let text = read(&format!("sys/class/dmi/id/{name}"));
        let known = VENDORS.iter().any(|vendor| text.starts_with(vendor));
        let hyper_v = text.starts_with("Virtual Machine");
        // Amazon's machines without a hypervisor say so in their product.
        let metal = read("sys/class/dmi/id/product_name").contains(".metal");
        if (known || hyper_v) && !metal {
            return Some(format!("the firmware says {:?}", text.trim()));
        }
    }
    let tree = read("proc/device-tree/hypervisor/compatible");
    (!tree.is_empty()).then(|| format!("the device tree says {:?}", tree.trim_end_matches('\0')))
}

/// Refuses leases where the clock may stand still, unless the configuration says that it does not.
pub fn check(config: &Config, root: &Path) -> Result<(), Failure> {
    let Some(replication) = config.replication.as_ref().filter(|it| it.reads == Reads::Lease) else {
        return Ok(());
    };
    match sign(root) {
        Some(sign) if !replication.never_paused => Err(Failure::usage(
            format!(
                "reads = \"lease\" in a virtual machine ({sign}): while a hypervisor stops the machine its clock stands \
                 still, and it would go on answering reads after the other node has taken over"
            ),
            "use reads = \"confirm\" (the default); or, where nobody ever pauses, snapshots or migrates this machine \
             while it runs, add virtual_machine = \"never-paused\" beside it",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        root
    }

    #[test]
    fn virtual_machines_are_known_by_their_signs_and_bare_metal_by_none() {
        let metal = [
            ("proc/cpuinfo", "processor\t: 0\nmodel name\t: hypervisor 3000\nflags\t\t: fpu vmx sse2\n"),
            ("sys/class/dmi/id/sys_vendor", "Dell Inc.\n"),
        ];
        assert_eq!(sign(root(&metal).path()), None);
        assert_eq!(sign(root(&[]).path()), None);
        let ec2 = [
            ("sys/class/dmi/id/sys_vendor", "Amazon EC2\n"),
            ("sys/class/dmi/id/product_name", "c5.metal\n"),
        ];
        assert_eq!(sign(root(&ec2).path()), None);
        for (path, text) in [
            ("proc/cpuinfo", "flags\t\t: fpu sse2 hypervisor lahf_lm\n"),
            ("sys/hypervisor/type", "xen\n"),
            ("sys/class/dmi/id/sys_vendor", "QEMU\n"),
            ("sys/class/dmi/id/product_name", "Virtual Machine\n"),
            ("proc/device-tree/hypervisor/compatible", "linux,kvm\0"),
        ] {
            assert!(sign(root(&[(path, text)]).path()).is_some(), "{path}: {text}");
        }
    }
}
