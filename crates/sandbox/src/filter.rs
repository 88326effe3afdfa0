//! The filter of system calls: what a sandboxed program never needs and what past escapes began with is refused.
//!
//! A list of what is refused, not of what is allowed, since interpreters of tenants' own choice run behind it; but calls that
//! are younger than the list do not exist for the program.

use std::collections::BTreeMap;

use libc::{SYS_clone, SYS_clone3, SYS_ioctl, SYS_personality, SYS_socket, c_long};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

use crate::error::SandboxError;

/// Refused with EPERM whatever the arguments.
const REFUSED: &[c_long] = &[
    // Other processes' memory and descriptors.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Work that the kernel does later, past this filter.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // Mounts, by the old interface and the new.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    // Files by handle pass by every directory.
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    // Other namespaces.
    libc::SYS_unshare,
    libc::SYS_setns,
    // Memory that no limit of a process counts: it stays when it is no longer mapped.
    libc::SYS_memfd_create,
    libc::SYS_memfd_secret,
    libc::SYS_shmget,
    libc::SYS_msgget,
    libc::SYS_semget,
    libc::SYS_mq_open,
    // What others do with the runtime, which all tenants read, is theirs.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_inotify_init,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
    // Keys are not in a namespace.
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    // Parts of the kernel that most holes were in, and that no program here needs.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_fanotify_init,
    libc::SYS_quotactl,
    // The machine itself.
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// The youngest call that is known here (`set_mempolicy_home_node`, Linux 5.17). Numbers above mean the same on all
/// architectures, and every C library does without them.
const YOUNGEST: u32 = 450;

/// Flags of `clone` that make a namespace.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

/// Commands of `ioctl` that type into a terminal for its owner, or load another line discipline into the kernel.
const TYPING: [u64; 3] = [0x5412, 0x541C, 0x5423];

/// Protocols of sockets: the usual one, ICMP, TCP, UDP, ICMPv6. Others would be loaded into the kernel for who asks.
const PROTOCOLS: [u64; 5] = [0, 1, 6, 17, 58];

/// Where the number of the call stands in what a filter sees.
const NUMBER_AT: u32 = 0;

/// The filters as bwrap reads them, one file each: calls that are refused, and calls that are said not to exist.
pub(crate) fn programs() -> Result<[Vec<u8>; 2], SandboxError> {
    let refused = compile(refused_rules()?, libc::EPERM)?;
    // Its flags stand in memory, where a filter cannot read them. C libraries fall back to `clone`.
    let absent = compile(BTreeMap::from([(SYS_clone3, Vec::new())]), libc::ENOSYS)?;
    let mut bounded = bounds();
    bounded.extend(absent);
    Ok([bytes(&refused), bytes(&bounded)])
}

fn refused_rules() -> Result<BTreeMap<c_long, Vec<SeccompRule>>, SandboxError> {
    use SeccompCmpArgLen::{Dword, Qword};
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> =
        REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let flags = NAMESPACES.iter().map(|flag| {
        let flag = u64::from(flag.unsigned_abs());
        rule(vec![condition(
            0,
            Qword,
            SeccompCmpOp::MaskedEq(flag),
            flag,
        )?])
    });
    rules.insert(SYS_clone, flags.collect::<Result<_, _>>()?);
    // The kernel reads the lower half of the command only; a filter that compared all of it could be passed by.
    let typing = TYPING
        .iter()
        .map(|command| rule(vec![condition(1, Dword, SeccompCmpOp::Eq, *command)?]));
    rules.insert(SYS_ioctl, typing.collect::<Result<_, _>>()?);
    let families = [libc::AF_INET, libc::AF_INET6]
        .iter()
        .map(|family| condition(0, Dword, SeccompCmpOp::Ne, u64::from(family.unsigned_abs())));
    let protocols = PROTOCOLS
        .iter()
        .map(|protocol| condition(2, Dword, SeccompCmpOp::Ne, *protocol));
    let sockets = vec![
        rule(families.collect::<Result<_, _>>()?)?,
        rule(protocols.collect::<Result<_, _>>()?)?,
    ];
    rules.insert(SYS_socket, sockets);
    let local = u64::from(libc::AF_UNIX.unsigned_abs());
    let pairs = rule(vec![condition(0, Dword, SeccompCmpOp::Ne, local)?])?;
    rules.insert(libc::SYS_socketpair, vec![pairs]);
    // Asking is allowed, and so is the ordinary one.
    let personalities = [0, 0xffff_ffff]
        .iter()
        .map(|ordinary| condition(0, Dword, SeccompCmpOp::Ne, *ordinary));
    rules.insert(
        SYS_personality,
        vec![rule(personalities.collect::<Result<_, _>>()?)?],
    );
    Ok(rules)
}

fn condition(
    argument: u8,
    length: SeccompCmpArgLen,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, SandboxError> {
    SeccompCondition::new(argument, length, operator, value).map_err(failed)
}

fn rule(conditions: Vec<SeccompCondition>) -> Result<SeccompRule, SandboxError> {
    SeccompRule::new(conditions).map_err(failed)
}

fn compile(
    rules: BTreeMap<c_long, Vec<SeccompRule>>,
    errno: libc::c_int,
) -> Result<BpfProgram, SandboxError> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH).map_err(failed)?;
    let action = SeccompAction::Errno(errno.unsigned_abs());
    // Of another architecture's calls it makes an end by itself.
    SeccompFilter::new(rules, SeccompAction::Allow, action, architecture)
        .and_then(BpfProgram::try_from)
        .map_err(failed)
}

/// Before the rules: calls of the x32 kind end the program, since their numbers would pass by every rule; calls that are too
/// young do not exist.
fn bounds() -> BpfProgram {
    const LOAD: u16 = 0x20;
    const JUMP_AT_LEAST: u16 = 0x35;
    const JUMP_ABOVE: u16 = 0x25;
    const RETURN: u16 = 0x06;
    const X32_BIT: u32 = 0x4000_0000;
    const KILL_PROCESS: u32 = 0x8000_0000;
    const ERRNO: u32 = 0x0005_0000;
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    vec![
        step(LOAD, 0, 0, NUMBER_AT),
        step(JUMP_AT_LEAST, 0, 1, X32_BIT),
        step(RETURN, 0, 0, KILL_PROCESS),
        step(JUMP_ABOVE, 0, 1, YOUNGEST),
        step(RETURN, 0, 0, ERRNO | libc::ENOSYS.unsigned_abs()),
    ]
}

/// The layout of the kernel's `struct sock_filter`.
fn bytes(program: &[sock_filter]) -> Vec<u8> {
    program
        .iter()
        .flat_map(|step| {
            let [c0, c1] = step.code.to_ne_bytes();
            let [k0, k1, k2, k3] = step.k.to_ne_bytes();
            [c0, c1, step.jt, step.jf, k0, k1, k2, k3]
        })
        .collect()
}

fn failed(why: impl ToString) -> SandboxError {
    SandboxError::Start(format!("the filter cannot be built: {}", why.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_filters_fit_the_kernel() {
        for program in programs().unwrap() {
            assert_eq!(program.len() % 8, 0);
            assert!(program.len() / 8 <= 4096);
        }
    }

    #[test]
    fn no_known_call_is_too_young() {
        assert!(REFUSED.iter().all(|call| *call <= c_long::from(YOUNGEST)));
    }

    /// A call that stood twice in the list, or with arguments and without, would be a rule less.
    #[test]
    fn each_rule_is_for_a_call_of_its_own() {
        let rules = refused_rules().unwrap();
        assert_eq!(rules.len(), REFUSED.len() + 5);
    }
}
