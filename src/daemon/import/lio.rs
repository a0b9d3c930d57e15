//! The `saveconfig.json` of targetcli.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
use zeroize::Zeroizing;

use super::{Choice, Import};
use crate::daemon::config::NAME_MAX;
use crate::daemon::failure::Failure;
use crate::iscsi::chap::SECRET_BYTES;
use crate::scsi::SERIAL_MAX;

/// Where secrets go unless the caller says otherwise.
const SECRETS_DIR: &str = "/etc/twinlun";
/// T10 VENDOR IDENTIFICATION and PRODUCT REVISION LEVEL of LIO's disks.
const VENDOR: &str = "LIO-ORG";
const REVISION: &str = "4.0";
/// PRODUCT IDENTIFICATION has 16 characters; LIO cuts a longer name.
const PRODUCT_MAX: usize = 16;
/// The company identifier of LIO's NAA designators, and the vendor specific digits behind it.
const COMPANY: &str = "6001405";
const NAA_DIGITS: usize = 25;

/// The parts of the file that make one disk.
struct Disk<'a> {
    file: &'a Value,
    iqn: &'a str,
    group: &'a Value,
    tag: u64,
    lun: u64,
    object: &'a Value,
}

/// Finds the disk and writes its sections.
///
/// # Errors
/// Nothing there fits the choice, or what is there does not say who the disk is.
pub fn import(file: &Value, choice: &Choice) -> Result<Import, Failure> {
    let disk = choose(file, choice)?;
    let mut writer = Writer {
        text: String::new(),
        secrets: Vec::new(),
        remarks: Vec::new(),
        directory: choice.secrets.clone().unwrap_or_else(|| SECRETS_DIR.into()),
    };
    writer.volume(&disk)?;
    writer.target(&disk)?;
    writer.access(&disk)?;
    Ok(Import { document: writer.finish(&disk), secrets: writer.secrets, remarks: writer.remarks })
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    value[key].as_str().filter(|text| !text.is_empty())
}

/// Attributes are numbers in some releases and strings in others.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

fn flag(value: &Value) -> bool {
    value.as_bool().unwrap_or_else(|| number(value).is_some_and(|number| number != 0))
}

fn unsuitable(what: String) -> Failure {
    Failure::usage(what, "save the configuration where the disk is served: targetcli saveconfig FILE")
}

/// One of several, by name: the only one if none is named.
fn pick<'a>(
    found: Vec<(String, &'a Value)>,
    wanted: Option<&str>,
    what: &str,
    option: &str,
) -> Result<(String, &'a Value), Failure> {
    let names = found.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    match wanted {
        Some(wanted) => found.into_iter().find(|(name, _)| name == wanted).ok_or_else(|| {
            unsuitable(format!("the file has no {what} {wanted}; it has {}", or_none(&names)))
        }),
        None if found.len() == 1 => Ok(found.into_iter().next().expect("there is one")),
        None if found.is_empty() => Err(unsuitable(format!("the file has no {what}"))),
        None => {
            let what = format!("the file has several of {what}: {names}");
            Err(Failure::usage(what, format!("say which one with {option}")))
        }
    }
}

fn or_none(names: &str) -> &str {
    if names.is_empty() { "none" } else { names }
}

fn choose<'a>(file: &'a Value, choice: &Choice) -> Result<Disk<'a>, Failure> {
    let targets = list(file, "targets").iter().filter(|target| target["fabric"] == "iscsi");
    let targets = targets.filter_map(|target| Some((text(target, "wwn")?.to_owned(), target))).collect();
    let (_, target) = pick(targets, choice.target.as_deref(), "iSCSI target", "--target IQN")?;
    let groups = list(target, "tpgs")
        .iter()
        .filter_map(|group| Some((number(&group["tag"])?.to_string(), group)))
        .collect();
    let wanted = choice.portal_group.map(|tag| tag.to_string());
    let (tag, group) = pick(groups, wanted.as_deref(), "portal group", "--portal-group TAG")?;
    let luns = list(group, "luns")
        .iter()
        .filter_map(|lun| Some((number(&lun["index"])?.to_string(), lun)))
        .collect();
    let wanted = choice.lun.map(|lun| lun.to_string());
    let (lun, entry) = pick(luns, wanted.as_deref(), "logical unit", "--lun NUMBER")?;
    // "/backstores/block/disk1"
    let path = text(entry, "storage_object").unwrap_or_default();
    let (plugin, name) = path.trim_start_matches("/backstores/").split_once('/').unwrap_or_default();
    let object = list(file, "storage_objects")
        .iter()
        .find(|object| object["plugin"] == plugin && object["name"] == name)
        .ok_or_else(|| unsuitable(format!("the storage object {path} of LUN {lun} is not in the file")))?;
    let parsed = |text: String| text.parse().expect("it was written from a number");
    Ok(Disk {
        file,
        iqn: text(target, "wwn").unwrap_or_default(),
        group,
        tag: parsed(tag),
        lun: parsed(lun),
        object,
    })
}

/// NAA IEEE Registered Extended as LIO derives it from a serial number: characters that are no hexadecimal digits do
/// not count, and what is missing is zero.
pub(super) fn naa(serial: &str) -> String {
    let digits = serial.chars().filter(char::is_ascii_hexdigit).take(NAA_DIGITS);
    let digits: String = digits.map(|digit| digit.to_ascii_lowercase()).collect();
    format!("{COMPANY}{digits:0<NAA_DIGITS$}")
}

/// PRODUCT IDENTIFICATION.
fn product<'a>(object: &'a Value, plugin: &str) -> Result<&'a str, Failure> {
    let alias = flag(&object["attributes"]["emulate_model_alias"]);
    Ok(match (plugin, alias) {
        ("block" | "fileio", true) => {
            let name = text(object, "name").unwrap_or_default();
            name.get(..PRODUCT_MAX).unwrap_or(name)
        }
        ("block", false) => "IBLOCK",
        ("fileio", false) => "FILEIO",
        (other, _) => {
            return Err(unsuitable(format!(
                "the backstore is of kind {other:?}; what its disk is called is not in the file (block and fileio are)"
            )));
        }
    })
}

/// A TOML string.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

struct Writer {
    text: String,
    secrets: Vec<(PathBuf, Zeroizing<String>)>,
    remarks: Vec<String>,
    directory: PathBuf,
}

impl Writer {
    fn key(&mut self, key: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.text, "{key} = {value}");
    }

    fn volume(&mut self, disk: &Disk<'_>) -> Result<(), Failure> {
        let object = disk.object;
        let name = text(object, "name").unwrap_or_default();
        let usable = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let good = name.bytes().all(usable) && name.len() <= NAME_MAX && !name.starts_with(['-', '_', '.']);
        self.text += "[volume]\n";
        self.key("name", quoted(if good && !name.is_empty() { name } else { "vol1" }));
        let block = number(&object["attributes"]["block_size"]).unwrap_or(512);
        if block != 512 && block != 4096 {
            return Err(unsuitable(format!(
                "the disk has blocks of {block} bytes; 512 and 4096 are possible"
            )));
        }
        let device = text(object, "dev").unwrap_or("DEVICE");
        match (text(object, "plugin"), number(&object["size"])) {
            (Some("fileio"), Some(size)) if size % 4096 == 0 && size > 0 => {
                self.key("size", quoted(&format!("{}KiB", size / 1024)));
            }
            _ => {
                self.text += "# size = \"...KiB\"\n";
                self.remarks.push(format!(
                    "volume.size must be what the initiators saw, for the disk must not change its size: \
                     echo $(($(blockdev --getsize64 {device}) / 1024))KiB"
                ));
            }
        }
        self.key("block_size", block);
        Ok(())
    }

    fn target(&mut self, disk: &Disk<'_>) -> Result<(), Failure> {
        let object = disk.object;
        let plugin = text(object, "plugin").unwrap_or_default();
        let serial = text(object, "wwn")
            .ok_or_else(|| unsuitable("the storage object has no serial number (key wwn)".to_owned()))?;
        if serial.len() > SERIAL_MAX || !serial.bytes().all(|byte| (0x20..=0x7E).contains(&byte)) {
            let what = format!("the serial number {serial:?} is not printable ASCII of at most {SERIAL_MAX}");
            return Err(unsuitable(what));
        }
        self.text += "\n[target]\n";
        self.key("iqn", quoted(disk.iqn));
        self.portals(disk.group);
        self.key("vendor", quoted(VENDOR));
        self.key("product", quoted(product(object, plugin)?));
        self.key("revision", quoted(REVISION));
        self.key("serial", quoted(serial));
        self.key("serial_form", quoted("lio"));
        self.key("naa", quoted(&naa(serial)));
        let attributes = &object["attributes"];
        let thin = flag(&attributes["emulate_tpu"]) || flag(&attributes["emulate_tpws"]);
        self.key("provisioning", quoted(if thin { "thin" } else { "fixed" }));
        if flag(&object["readonly"]) {
            self.key("read_only", true);
        }
        if plugin == "fileio" {
            // LIO tells of no larger physical block for a file.
            self.key("physical_block_size", number(&attributes["block_size"]).unwrap_or(512));
        } else {
            let device = text(object, "dev").unwrap_or("DEVICE");
            self.remarks.push(format!(
                "target.physical_block_size is 4096 unless it is set; LIO shows that of the device: \
                 blockdev --getpbsz {device}"
            ));
        }
        if disk.tag != 1 {
            self.remarks.push(format!(
                "the portal group's tag becomes 1 (it is {}); the name of the target port changes with it",
                disk.tag
            ));
        }
        if list(disk.group, "luns").len() > 1 {
            self.remarks.push(
                "the target has more logical units; twinlun serves one, so the others need targets of their own".into(),
            );
        }
        self.remarks.push(
            "LIO's vendor_id, product_id, revision and company_id can be changed without being saved; compare with \
             sg_inq and sg_vpd -p di on a client, or /sys/kernel/config/target/core/*/*/wwn/"
                .into(),
        );
        Ok(())
    }

    fn portals(&mut self, group: &Value) {
        let portals = list(group, "portals").iter().filter_map(|portal| {
            let ip: std::net::IpAddr = text(portal, "ip_address")?.trim_matches(['[', ']']).parse().ok()?;
            let port = number(&portal["port"]).and_then(|port| u16::try_from(port).ok())?;
            Some(std::net::SocketAddr::new(ip, port))
        });
        let portals: Vec<_> = portals.collect();
        let texts: Vec<_> = portals.iter().map(|portal| quoted(&portal.to_string())).collect();
        self.key("portals", format!("[{}]", texts.join(", ")));
        if portals.iter().any(|portal| portal.ip().is_unspecified()) || portals.is_empty() {
            self.remarks.push(
                "target.portals must be the address that the initiators use: a service address of the pair"
                    .into(),
            );
        }
    }

    /// Who may log in, with which LUN numbers.
    fn access(&mut self, disk: &Disk<'_>) -> Result<(), Failure> {
        let group = disk.group;
        let attributes = &group["attributes"];
        let authentication = flag(&attributes["authentication"]);
        let mut sections = String::new();
        for acl in list(group, "node_acls") {
            self.initiator(disk, acl, authentication, &mut sections)?;
        }
        let everybody = flag(&attributes["generate_node_acls"]);
        if everybody {
            if authentication {
                let chap = self.chap(group, "", "chap-in", "chap-out")?;
                self.section("target.chap", &chap);
            }
            if disk.lun != 0 || !sections.is_empty() {
                let _ = write!(
                    sections,
                    "\n[[target.initiator]]\nnames = [\"*\"]\nluns = {}\n",
                    luns(&[disk.lun])
                );
            }
            if number(&attributes["demo_mode_write_protect"]).unwrap_or(1) != 0 {
                self.remarks.push(
                    "LIO let initiators without an entry read only; twinlun lets whoever fits a rule write"
                        .into(),
                );
            }
        } else if sections.is_empty() {
            self.remarks.push("LIO let no initiator in; say who may with [[target.initiator]]".into());
            sections += "\n[[target.initiator]]\nnames = [\"iqn.1991-05.com.microsoft:*\"]\nluns = []\n";
        }
        let discovery = list(disk.file, "fabric_modules").iter().find(|module| module["name"] == "iscsi");
        if let Some(module) = discovery.filter(|module| flag(&module["discovery_enable_auth"])) {
            let chap = self.chap(module, "discovery_", "discovery-in", "discovery-out")?;
            self.section("target.discovery_chap", &chap);
        }
        self.text += &sections;
        Ok(())
    }

    fn initiator(
        &mut self,
        disk: &Disk<'_>,
        acl: &Value,
        authentication: bool,
        sections: &mut String,
    ) -> Result<(), Failure> {
        let Some(name) = text(acl, "node_wwn") else { return Ok(()) };
        let mapped =
            list(acl, "mapped_luns").iter().filter(|mapped| number(&mapped["tpg_lun"]) == Some(disk.lun));
        let mapped: Vec<_> = mapped.collect();
        if mapped.iter().any(|mapped| flag(&mapped["write_protect"])) {
            self.remarks.push(format!("{name} could only read; in twinlun read_only is for all initiators"));
        }
        let shown: Vec<u64> = mapped.iter().filter_map(|mapped| number(&mapped["index"])).collect();
        let _ = write!(
            sections,
            "\n[[target.initiator]]\nnames = [{}]\nluns = {}\n",
            quoted(&name.to_lowercase()),
            luns(&shown)
        );
        if authentication {
            // "iqn.1991-05.com.microsoft:win-host.example.lan": the host.
            let last = name.rsplit(':').next().unwrap_or(name);
            let stem = last.split('.').next().unwrap_or(last);
            let chap = self.chap(acl, "", &format!("chap-{stem}-in"), &format!("chap-{stem}-out"))?;
            let _ = writeln!(sections, "chap = {{ {} }}", chap.join(", "));
        }
        Ok(())
    }

    fn section(&mut self, name: &str, keys: &[String]) {
        if !keys.is_empty() {
            let _ = writeln!(self.text, "\n[{name}]\n{}", keys.join("\n"));
        }
    }

    /// The keys of a CHAP section. LIO calls them the same everywhere but for a prefix.
    fn chap(&mut self, from: &Value, prefix: &str, own: &str, target: &str) -> Result<Vec<String>, Failure> {
        // "chap_userid" of a portal group and of an initiator, "discovery_userid" of discovery.
        let name =
            |key: &str| if prefix.is_empty() { format!("chap_{key}") } else { format!("{prefix}{key}") };
        let (Some(user), Some(secret)) = (text(from, &name("userid")), text(from, &name("password"))) else {
            let who = text(from, "node_wwn").unwrap_or("every initiator");
            let what = format!("the target wants CHAP, and the file has no name and secret for {who}");
            return Err(Failure::usage(what, "complete it in targetcli (set auth), and save again"));
        };
        let mut keys = vec![format!("user = {}", quoted(user))];
        keys.push(format!("secret_file = {}", self.secret(own, secret)));
        let mutual = (text(from, &name("mutual_userid")), text(from, &name("mutual_password")));
        if let (Some(user), Some(secret)) = mutual {
            keys.push(format!("target_user = {}", quoted(user)));
            keys.push(format!("target_secret_file = {}", self.secret(target, secret)));
        }
        Ok(keys)
    }

    fn secret(&mut self, name: &str, secret: &str) -> String {
        let good = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let stem = name.replace(|c: char| !good(c), "-");
        // Initiators of other domains may share the last part of their names, with other secrets.
        let mut path = self.directory.join(&stem);
        let mut number = 1;
        while let Some((_, other)) = self.secrets.iter().find(|(other, _)| *other == path) {
            if other.as_str() == secret {
                return quoted(&show(&path));
            }
            number += 1;
            path = self.directory.join(format!("{stem}-{number}"));
        }
        if !SECRET_BYTES.contains(&secret.len()) {
            self.remarks.push(format!(
                "the secret for {} has {} bytes; choose one of {} to {}, as Windows wants it",
                path.display(),
                secret.len(),
                SECRET_BYTES.start(),
                SECRET_BYTES.end()
            ));
        }
        let shown = quoted(&show(&path));
        self.secrets.push((path, Zeroizing::new(secret.to_owned())));
        shown
    }

    fn finish(&mut self, disk: &Disk<'_>) -> String {
        let mut head = format!(
            "# From LIO: LUN {} of portal group {} of {}, storage object {}/{}.\n",
            disk.lun,
            disk.tag,
            disk.iqn,
            text(disk.object, "plugin").unwrap_or_default(),
            text(disk.object, "name").unwrap_or_default(),
        );
        for remark in &self.remarks {
            let _ = writeln!(head, "# {remark}");
        }
        head + "\n" + &self.text
    }
}

/// The map of one initiator's view: numbers that it sees, all of our unit 0.
fn luns(shown: &[u64]) -> String {
    match shown {
        [] => "[]".to_owned(),
        [0] => "[0]".to_owned(),
        shown => {
            let entries: Vec<_> = shown.iter().map(|lun| format!("{lun} = 0")).collect();
            format!("{{ {} }}", entries.join(", "))
        }
    }
}

fn show(path: &Path) -> String {
    path.display().to_string()
}
