import time, warnings
def test_case(case):
    t=time.time(); case.config.args
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter("always")
        f=case.fit()
    print("\nRES", case, round(time.time()-t,2), f.converged, f.n_iter, f.diagnostics, [str(i.message)[:100] for i in w])
    for n,v in case.config.aligned(f.params).items():
        if n in case.config.values: print("   ",n, [round(q,2) for q in v.flatten().tolist()], case.config.values[n].flatten().tolist())
