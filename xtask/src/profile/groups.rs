//! What kind of work a function does, going by its name.

/// Functions that no pattern names.
const REST: &str = "rest";

/// The kinds, each with its functions: a name, or with `*` at an end what names end or begin with. The longest pattern
/// decides, so exceptions stand beside the rule that they are excepted from.
pub const GROUPS: &[(&str, &str)] = &[
    ("user space", "(user*"),
    ("zeroing", "prep_new_page clear_page* clear_user* memset* __memset* rep_stos* clear_huge* folio_zero*"),
    ("copying", "memcpy* __memcpy* memmove* rep_movs* copy_page* _copy_* copy_from_kernel* copy_mc*"),
    (
        "page allocator",
        "get_page_from_freelist __alloc_frozen* alloc_pages* __rmqueue* rmqueue* free_frozen* __free_frozen* \
         free_unref* policy_nodemask zone_* get_free_pages* __free_pages* __free_one* vma_alloc_folio* folio_alloc* \
         free_pcp* __mod_zone* free_pages* alloc_frozen* mpol_* should_fail* __alloc_pages* folios_put_refs \
         __folio_put free_pages_and_swap* __page_cache_release free_one_page",
    ),
    (
        "slab",
        "kmem_cache_* kfree* kmalloc* __kmalloc* kvfree* kvmalloc* __kvmalloc* __kfree* *sheaf* *refill_objects* \
         allocate_slab *slab_obj* alloc_from_new_slab krealloc* ___slab* __slab* memcg_slab* __memcg_slab*",
    ),
    ("percpu allocator", "pcpu_* free_percpu __alloc_percpu* __pcpu*"),
    (
        "VMAs and maple tree",
        "mas_* mt_* mtree_* __mt_* vma_* __vma_* mmap_* __mmap_* do_mmap vms_* find_vma* insert_vm* vm_area* \
         vm_mmap* remove_vma *unmapped_area* expand_downwards vm_stat* may_expand* anon_vma* unlink_anon* \
         unlink_file* anon_rmap* mapping_rmap* __mapping_rmap* __anon_vma* __put_anon* find_mergeable* \
         reusable_anon* tear_down_vmas commit_merge can_vma* relocate_vma* __split_vma __install_special* map_vdso \
         vm_get_page_prot arch_get_unmapped* mprotect_fixup do_mprotect* __vm_* vm_unmapped* vm_brk* do_brk* \
         do_vmi* ksys_mmap* __x64_sys_mmap __x64_sys_munmap __x64_sys_brk file_mmap* unmap_region special_mapping* \
         dup_mmap find_extend* uprobe_m* ext4_file_mmap* shmem_mmap* exit_mmap node_copy node_finalise delete_node \
         get_mmap_base thp_get_unm* userfaultfd_unmap* memfd_check* arch_pick_mmap* __bprm_mm* bprm_mm_init \
         mm_alloc mm_init* *mmput __mmdrop security_vm* uprobe_clear* khugepaged_enter*",
    ),
    (
        "page tables, zap and TLB",
        "__zap* zap_* unmap_vmas unmap_page* free_pgd* free_pgt* tlb_* __tlb_* flush_tlb* native_flush* pte_* pmd_* \
         pud_* __pte_* __pmd_* __pud_* __p4d_* pgd_* ___p* move_page_tables alloc_new_pud get_old_pud \
         change_protection folio_remove_rmap* mm_trace_rss* arch_check_zapped* ptep_* set_pte mprotect_folio* \
         copy_page_range copy_pte* copy_p4d* copy_pud* copy_pmd* copy_present* vm_normal_page __ptep* ptdump* \
         _paravirt* switch_ldt ldt_*",
    ),
    (
        "faults and gup",
        "handle_mm_fault __handle_mm* do_user_addr* exc_page_fault *asm_exc_page_fault do_pte_missing do_*_fault \
         filemap_map* next_uptodate* set_pte_range folio_add_file* do_wp_page wp_page* lock_vma_under* lock_mm_and* \
         vma_start_read map_anon* __get_user_pages* get_user_pages* follow_page* get_arg_page check_vma_flags \
         finish_fault filemap_fault folio_add_new* folio_add_anon* folio_add_lru* try_grab* fault_in* __thp_vma* \
         __folio_throttle* vmf_* is_valid_gup* ___pte_offset* pte_offset* trace_page_fault* folio_try*",
    ),
    (
        "page statistics, LRU and memcg",
        "lruvec_* mod_node* __mod_node* __mod_lruvec* mod_lruvec* mod_memcg* __mod_memcg* count_memcg* \
         __count_memcg* *css_rstat* lru_* __lru* folio_mark* folio_batch* folio_lruvec* charge_memcg *mem_cgroup_* \
         uncharge_* percpu_counter* __percpu_counter* zone_statistics get_mem_cgroup* memcg_* obj_cgroup* \
         refill_stock* try_charge* mm_exit_exec*",
    ),
    (
        "page cache, path and file",
        "link_path_walk path_* lookup_* __lookup* do_dentry* *d_lookup* do_file_open do_sys_open* open_* \
         build_open* may_open alloc_empty* __fput* fput* filp_* dput *_dput d_* __d_* dentry_* lockref_* mnt* \
         __mnt* iput evict inode_* __inode* init_file alloc_fd fd_install do_dup2 replace_fd dup_fd expand_files \
         file_* fget* __fget* fdget* vfs_* kernel_read __kernel_read filemap_* xas_* xa_* touch_atime atime_* \
         current_time generic_* shmem_* ext4_* locks_remove* dnotify* fsnotify* pidfs_* stash_* step_into* \
         pick_link walk_* complete_walk terminate_walk try_to_unlazy nd_* set_root path_from* __filemap* find_lock* \
         do_getname* getname* putname *sys_close *sys_newfstat* *sys_read *sys_pread* *sys_open* *sys_fa* \
         do_faccess* clear_inode alloc_inode put_files* __put_files* init_empty* __destroy_inode get_close_on* \
         __follow_mount* fs_* may_create* copy_page_to* _copy_to_iter prepend* d_abs* cp_* __mark_inode* \
         proc_inval* __vfs_* simple_xattr* errseq*",
    ),
    (
        "ELF and exec",
        "load_elf* elf_* create_elf* bprm* begin_new_exec setup_arg* copy_string* exec_* setup_new* \
         create_init_stack* total_mapping* maximum_align* do_open_exec* open_exec* do_execve* strnlen_user \
         strncpy_from* load_* would_dump finalize_exec start_thread* flush_thread arch_align* arch_setup* \
         set_mm_exe* __set_task_comm *_binfmt* free_bprm alloc_bprm prepare_exec* set_dumpable do_close_on* \
         path_noexec mm_update* search_binary* *sys_execve* unshare_* kernel_execve set_binfmt",
    ),
    (
        "template: module and syscall",
        "*spawn_template* kernel_spawn spawn_* <spawn_* <kernel::* kernel::* core::* <core::* alloc::* <alloc::* \
         rust_helper*",
    ),
    (
        "fork",
        "copy_* dup_task* kernel_clone *sys_clone* *sys_fork *sys_vfork wake_up_new* alloc_pid attach_pid free_pid* \
         ida_* idr_* radix_tree* __radix* fpu_clone arch_dup* dup_user* rt_mutex_init* __mutex_init init_* \
         ptrace_init* alloc_thread* mm_alloc_cid mutex_init* __init_* rseq_* get_task* account_kernel_stack clone_* \
         ret_from_fork pidfd_* sched_fork* __sched_fork sched_cgroup_fork sched_autogroup* uprobe_copy*",
    ),
    (
        "exit and wait",
        "do_exit exit_* release_task wait_* *do_wait* do_notify* kernel_wait* *sys_wait* *sys_exit* do_group_exit \
         detach_pid free_thread* taskstats* proc_exit* acct_* thread_group* __exit_* delayed_put* put_task* \
         __put_task* free_task* arch_release* eligible* child_wait* posix_cpu_timers_exit* add_device_rand* \
         disassociate* do_task_dead put_pid pid_* __unhash* futex_exit*",
    ),
    (
        "scheduler and switches",
        "*load_avg* update_* __update_* *_fair *_entity enqueue_* dequeue_* __dequeue* __enqueue* pick_* __pick* \
         psi_* __schedule schedule* preempt_schedule* try_to_wake* ttwu_* __switch_to* switch_mm* finish_task* \
         sched_* *_swait* place_entity wakeup_* resched* __resched* calc_concur* select_task* task_rq* _task_rq* \
         ___task_rq* put_prev* set_next* __wake* wake_up* cpuacct* avg_vruntime* min_vruntime* set_task_rq* \
         check_preempt* task_scan* task_numa* init_numa* init_dl* arch_scale* __rb_* rb_* attach_task* detach_task* \
         post_init* complete __wait_for* prepare_to* kick_process task_change* propagate_* list_add_leaf* save_fp* \
         fpregs_* fpu_* fpu__* __rdgsbase* __wrgsbase* asm_load_gs* reweight_* dl_* add_wait* remove_wait* __sched* \
         __cond* current_save_fs* task_dead* cr4_*",
    ),
    (
        "signals",
        "flush_sig* do_sig* *sys_rt_sig* *sigprocmask* prepare_signal __send_signal* send_signal* recalc_sig* \
         calculate_sig* __set_task_blocked sigaction* set_current_blocked collect_signal* dequeue_signal* \
         get_signal* lock_task_sig* *itimer* kick_* do_send_sig* exit_signals",
    ),
    (
        "locks, RCU and time",
        "__rcu_* rcu_* call_rcu __call_rcu _raw_* down_* up_* mutex_* __mutex* hrtimer* __hrtimer* ktime* \
         *sched_clock* read_tsc __local_bh* timer* __note_gp* note_gp* force_qs* finish_rcuwait* poll_state* srcu* \
         __srcu* tick_* __flush_work* work_* queue_work* process_one* __cancel_work cancel_* enable_work \
         disable_work* set_normal* queued_* __down* rwsem* osq_* exit_tasks_rcu* worker_* kthread* mod_timer* \
         __mod_timer* run_timer* handle_softirqs* clockevents* lapic*",
    ),
    (
        "security, cgroups, audit, perf",
        "security_* apparmor_* aa_* cap_* hook_* common_perm* common_file* profile_* prepare_creds commit_creds \
         *_cred *_creds cgroup_* css_* audit_* __audit* perf_* task_work* seccomp_* bpf_* from_ku* from_kg* make_k* \
         make_vfs* __begin_current* ns_capable* capable* in_userns* yama_* landlock_* uprobe_* *ucounts is_rlimit* \
         cpuset_* ksm_* futex_* task_exec_state* generic_perm* inode_perm* cn_* proc_*_connector *hw_breakpoint* \
         __cgroup* get_vfs_caps* current_in_user* do_prlimit* *prlimit* switch_task_namesp* free_nsproxy*",
    ),
    (
        "entry to and exit from the kernel",
        "entry_* do_syscall* syscall_* x64_sys_call error_* irqentry_* arch_exit_to* swapgs_* exit_to_user* \
         sync_regs ret_from_fork* restore_regs* common_interrupt* asm_* sysvec_* native_iret* xen_* paranoid_* \
         irq_* __irq* handle_irq* handle_edge* paravirt* __x86_*",
    ),
    (
        "random numbers",
        "chacha_* get_random* _get_random* blake2* crng_* prandom* randomize_* add_*_randomness *random_bytes* \
         _crng* rng_*",
    ),
];

/// The kind of work that `function` does.
pub fn group(function: &str) -> &'static str {
    let patterns = GROUPS.iter().flat_map(|(group, patterns)| patterns.split_whitespace().map(move |p| (*group, p)));
    let matching = patterns.filter(|(_, pattern)| matches(pattern, function));
    matching.max_by_key(|(_, pattern)| weight(pattern)).map_or(REST, |(group, _)| group)
}

/// A whole name beats any part of one.
fn weight(pattern: &str) -> (bool, usize) {
    (!pattern.contains('*'), pattern.len())
}

fn matches(pattern: &str, function: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(_), Some(_)) => function.contains(pattern.trim_matches('*')),
        (Some(end), None) => function.ends_with(end),
        (None, Some(start)) => function.starts_with(start),
        (None, None) => match pattern.split_once('*') {
            Some((start, end)) => function.starts_with(start) && function.ends_with(end),
            None => function == pattern,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_pattern_decides() {
        assert_eq!(group("mas_store"), "VMAs and maple tree");
        assert_eq!(group("vma_start_write"), "VMAs and maple tree");
        assert_eq!(group("vma_start_read"), "faults and gup");
        assert_eq!(group("vma_alloc_folio_noprof"), "page allocator");
        assert_eq!(group("copy_process"), "fork");
        assert_eq!(group("copy_page_from_iter"), "copying");
        assert_eq!(group("copy_page_range"), "page tables, zap and TLB");
        assert_eq!(group("<spawn_template_main::spawn::Spawn>::run"), "template: module and syscall");
        assert_eq!(group("no_such_function"), REST);
    }

    #[test]
    fn wildcards() {
        assert!(matches("a*", "ab") && !matches("a*", "ba"));
        assert!(matches("*a", "ba") && !matches("*a", "ab"));
        assert!(matches("*a*", "bab") && matches("do_*_fault", "do_wp_fault"));
        assert!(matches("a", "a") && !matches("a", "aa"));
    }

    #[test]
    fn no_pattern_stands_twice() {
        let mut patterns: Vec<&str> = GROUPS.iter().flat_map(|(_, patterns)| patterns.split_whitespace()).collect();
        patterns.sort_unstable();
        let twice: Vec<_> = patterns.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
        assert!(twice.is_empty(), "{twice:?}");
    }
}
